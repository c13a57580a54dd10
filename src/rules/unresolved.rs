//! Why a write does not say which instance it changes.

/// Why a write has no value for an instance, so that it invalidates the whole family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    #[error("the capture took no part in the match")]
    NoCapture,
    #[error("there is no such value")]
    Missing,
    #[error("the value is neither a text nor a number, nor a list of them")]
    WrongType,
    #[error("it names too many values")]
    TooMany,
    #[error("the value is too long to be compared with a claim")]
    TooLong,
    #[error("the content is not known")]
    NotReceived,
    #[error("there is no content")]
    NoContent,
    #[error("the content is larger than max_rule_body")]
    TooLarge,
    #[error("the content is compressed (Content-Encoding)")]
    Compressed,
    #[error("the Content-Type is neither JSON nor a form")]
    OtherType,
    #[error("the content is malformed")]
    Malformed,
}
