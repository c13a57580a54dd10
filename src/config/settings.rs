//! Declares the tables of the rules file whose changes need a restart.

/// Declares a table: its name, and its fields with their defaults. Defines the struct, its `Default`, and `differing`, which names the
/// fields with other values. Without defaults there is no `Default`.
macro_rules! settings {
    ($table:literal: $(#[$attribute:meta])* pub struct $name:ident {
        $($(#[$doc:meta])* pub $field:ident: $type:ty = $default:expr,)+
    }) => {
        settings! { $table: $(#[$attribute])* pub struct $name { $($(#[$doc])* pub $field: $type,)+ } }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: $default,)+ }
            }
        }
    };
    ($table:literal: $(#[$attribute:meta])* pub struct $name:ident {
        $($(#[$doc:meta])* pub $field:ident: $type:ty,)+
    }) => {
        $(#[$attribute])*
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)+
        }

        impl $name {
            /// Names of the fields with other values.
            pub(super) fn differing(&self, other: &$name) -> Vec<&'static str> {
                let fields = [$((self.$field != other.$field, concat!("[", $table, "] ", stringify!($field)))),+];
                fields.into_iter().filter_map(|(differs, name)| differs.then_some(name)).collect()
            }
        }
    };
}
