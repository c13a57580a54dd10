//! The labels of the metrics.

use prometheus_client::encoding::EncodeLabelSet;

/// Declares sets of labels with the types of their values.
macro_rules! labels {
    ($($name:ident { $($label:ident: $type:ty),+ })+) => {$(
        #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $name {
            $(pub $label: $type,)+
        }
    )+};
}

labels! {
    RequestLabels { family: String, outcome: &'static str }
    InvalidationLabels { family: String, cause: &'static str }
    OperationLabels { op: &'static str }
    EndLabels { ended: &'static str }
    RefetchLabels { family: String, body: &'static str }
    ResultLabels { result: &'static str }
    ReasonLabels { reason: &'static str }
    AuthorizationLabels { verdict: &'static str, asked: &'static str }
    RefusalLabels { what: &'static str, bound: &'static str }
    CauseLabels { cause: &'static str }
    AlertLabels { alert: &'static str, family: String }
    TaskLabels { task: &'static str }
    FamilyLabels { family: String }
}
