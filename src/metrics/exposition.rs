//! The text of the metrics.

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::Metrics;

/// Declares [`Metrics`], and registers them in this order. Each has a field with its type, the name that is exposed without prefix and
/// unit, its unit if it has one, and its help text.
macro_rules! metrics {
    ($($access:vis $field:ident: $type:ty = $name:literal $([$unit:ident])?, $help:literal;)+) => {
        /// All metrics of Larder.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] $access $field: $type,)+
        }

        impl Metrics {
            fn register(&self, registry: &mut Registry) {
                $(metrics!(@register registry, $name $([$unit])?, $help, self.$field.clone());)+
            }
        }
    };
    (@register $registry:ident, $name:literal, $help:literal, $metric:expr) => {
        $registry.register($name, $help, $metric)
    };
    (@register $registry:ident, $name:literal [$unit:ident], $help:literal, $metric:expr) => {
        $registry.register_with_unit($name, $help, Unit::$unit, $metric)
    };
}

impl Metrics {
    /// All metrics in the OpenMetrics text format.
    pub fn exposition(&self) -> String {
        let (mut text, mut registry) = (String::new(), Registry::with_prefix("larder"));
        registry.register("build", "What runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        self.register(&mut registry);
        // Writing to a String cannot fail, and all labels are valid.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}
