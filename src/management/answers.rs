//! What all methods answer with.

use serde::Serialize;
use serde_json::Value;

use crate::api::rpc::{Error, INVALID_PARAMS};

/// Parameters that can't be meant.
pub(super) fn invalid(message: String) -> Error {
    Error::new(INVALID_PARAMS, message)
}

/// A result as JSON.
pub(super) fn value(result: &impl Serialize) -> Value {
    // Structures of strings, numbers and lists always have a JSON form.
    serde_json::to_value(result).unwrap_or_default()
}
