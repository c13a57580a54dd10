//! Enums whose variants have texts: settings of one word, and reasons.

/// Declares an enum of words: those that a field of `rules.toml` may have, or that operators read.
macro_rules! words {
    ($(#[$attribute:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$attribute])*
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// The words, with their values.
            pub const WORDS: &[(&'static str, $name)] = &[$(($word, $name::$variant)),+];

            /// Its word.
            pub fn word(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)+
                }
            }
        }
    };
}

/// Declares an enum of reasons: each with its token and one sentence with its RFC section.
macro_rules! reasons {
    ($(#[$attribute:meta])* pub enum $name:ident {
        $($(#[$doc:meta])* $variant:ident = $token:literal, $explanation:literal;)+
    }) => {
        $(#[$attribute])*
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: [$name; [$($token),+].len()] = [$($name::$variant),+];

            /// Token for the `detail` of `Cache-Status`, logs and metrics.
            pub fn token(self) -> &'static str {
                match self {
                    $($name::$variant => $token,)+
                }
            }

            /// One sentence with its RFC section.
            pub fn explanation(self) -> &'static str {
                match self {
                    $($name::$variant => $explanation,)+
                }
            }
        }
    };
}

pub(crate) use {reasons, words};
