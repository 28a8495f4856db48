//! JSON-RPC 2.0 messages: one request line in, one response line out. Owns
//! nothing; called by the socket's client threads (reading, writing), by the
//! management loop (parameters) and by `fullgatectl`. Never panics on input.
//!
//! Stricter than the specification where an operator gains by it: parameters
//! are by name only, every request has an `id` (a change whose outcome nobody
//! reads is a mistake), and batches are refused.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Not JSON.
pub const PARSE_ERROR: i32 = -32700;
/// JSON, but not a request.
pub const INVALID_REQUEST: i32 = -32600;
/// No such method.
pub const UNKNOWN_METHOD: i32 = -32601;
/// A parameter is missing, unknown or of the wrong type.
pub const INVALID_PARAMS: i32 = -32602;
/// The request was understood and could not be fulfilled.
pub const FAILED: i32 = -32000;
/// There is no place for one more client; a moment later there may be.
pub const BUSY: i32 = -32001;
/// Whoever asks may not do that.
pub const FORBIDDEN: i32 = -32002;

/// Longest error message, bytes: it may quote what the client sent.
const MESSAGE_LIMIT: usize = 512;

/// What ties a response to its request.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Id {
    Number(serde_json::Number),
    Text(String),
    /// Only in responses to what could not be understood.
    Null,
}

/// A request that is well-formed; its parameters are not looked at yet.
#[derive(Clone, PartialEq, Debug)]
pub struct Request {
    pub id: Id,
    pub method: String,
    pub params: Map<String, Value>,
}

/// Why a request was not fulfilled; `message` is one line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub code: i32,
    pub message: String,
}

/// The outcome of a request.
pub type Outcome = Result<Value, Error>;

impl Error {
    /// An error; line breaks in the message become spaces, and it is cut where
    /// it is longer than a terminal shows.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        let mut message = message.into().trim().replace(['\n', '\r'], " ");
        if message.len() > MESSAGE_LIMIT {
            let end = (0..=MESSAGE_LIMIT)
                .rev()
                .find(|&i| message.is_char_boundary(i));
            message.truncate(end.unwrap_or(0));
            message.push('…');
        }
        Self { code, message }
    }

    /// The request was understood and could not be fulfilled.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(FAILED, message)
    }

    /// A method that is none of `known`; names the nearest.
    pub fn unknown_method(method: &str, known: &[&str]) -> Self {
        let asked: String = method.chars().take(64).collect();
        let nearest = known
            .iter()
            .min_by_key(|name| strsim::damerau_levenshtein(&asked, name));
        let hint = nearest
            .map(|name| format!("; the nearest is {name:?}"))
            .unwrap_or_default();
        Self::new(UNKNOWN_METHOD, format!("no method {asked:?}{hint}"))
    }
}

/// A line that is no request, and the `id` it carried where one could be read.
#[derive(Clone, PartialEq, Debug)]
pub struct Refusal {
    pub id: Id,
    pub error: Error,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    jsonrpc: String,
    method: String,
    #[serde(default)]
    params: Option<Value>,
    id: Id,
}

/// Reads one request from a line without its newline.
pub fn parse(line: &[u8]) -> Result<Request, Refusal> {
    let refuse = |id: Id, code: i32, message: String| {
        Err(Refusal {
            id,
            error: Error::new(code, message),
        })
    };
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(error) => return refuse(Id::Null, PARSE_ERROR, format!("not UTF-8: {error}")),
    };
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return refuse(Id::Null, PARSE_ERROR, format!("not JSON: {error}"));
    }
    if text.trim_start().starts_with('[') {
        let message = "batches are not supported: send one request a line";
        return refuse(Id::Null, INVALID_REQUEST, message.into());
    }
    let envelope: Envelope = match serde_json::from_str(text) {
        Ok(envelope) => envelope,
        Err(error) => {
            let message = format!("not a JSON-RPC 2.0 request: {error}");
            return refuse(readable_id(text), INVALID_REQUEST, message);
        }
    };
    let Envelope {
        jsonrpc,
        method,
        params,
        id,
    } = envelope;
    if id == Id::Null {
        return refuse(
            id,
            INVALID_REQUEST,
            "id must be a number or a string".into(),
        );
    }
    if jsonrpc != "2.0" {
        return refuse(id, INVALID_REQUEST, "jsonrpc must be \"2.0\"".into());
    }
    match params {
        None => Ok(Request {
            id,
            method,
            params: Map::new(),
        }),
        Some(Value::Object(params)) => Ok(Request { id, method, params }),
        Some(_) => refuse(
            id,
            INVALID_PARAMS,
            "params must be an object (parameters by name)".into(),
        ),
    }
}

/// The `id` of something that is no request, so that its sender can tell.
fn readable_id(text: &str) -> Id {
    #[derive(Deserialize)]
    struct OnlyId {
        id: Id,
    }
    serde_json::from_str::<OnlyId>(text).map_or(Id::Null, |found| found.id)
}

/// Reads a method's parameters; the error names the key.
pub fn params<T: DeserializeOwned>(params: Map<String, Value>) -> Result<T, Error> {
    serde_path_to_error::deserialize(Value::Object(params)).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.inner();
        Error::new(
            INVALID_PARAMS,
            if path == "." {
                cause.to_string()
            } else {
                format!("{path}: {cause}")
            },
        )
    })
}

/// The response line, newline included.
pub fn response(id: &Id, outcome: &Outcome) -> String {
    #[derive(Serialize)]
    struct Response<'a> {
        jsonrpc: &'static str,
        id: &'a Id,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<&'a Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a Error>,
    }
    let response = Response {
        jsonrpc: "2.0",
        id,
        result: outcome.as_ref().ok(),
        error: outcome.as_ref().err(),
    };
    // Strings, numbers and values with string keys always have a JSON form.
    let mut line = serde_json::to_string(&response).unwrap_or_default();
    line.push('\n');
    line
}

/// The request line, newline included.
pub fn request(id: u64, method: &str, params: &Value) -> String {
    let mut line =
        serde_json::json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
            .to_string();
    line.push('\n');
    line
}

/// Reads a response line: its outcome, or why it is no response.
pub fn parse_response(line: &str) -> Result<Outcome, String> {
    #[derive(Deserialize)]
    struct Response {
        result: Option<Value>,
        error: Option<Error>,
    }
    match serde_json::from_str::<Response>(line) {
        Ok(Response {
            error: Some(error), ..
        }) => Ok(Err(error)),
        Ok(Response { result, .. }) => Ok(Ok(result.unwrap_or(Value::Null))),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn refusal(line: &str) -> (Id, i32) {
        let refusal = parse(line.as_bytes()).expect_err("refused");
        (refusal.id, refusal.error.code)
    }

    #[test]
    fn a_request_is_read() {
        let request = parse(br#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":1}}"#);
        let request = request.expect("a request");
        assert_eq!(request.id, Id::Number(7.into()));
        assert_eq!(request.method, "ping");
        assert_eq!(Value::Object(request.params), json!({"a": 1}));
        let bare = parse(br#"{"jsonrpc":"2.0","id":"x","method":"ping"}"#).expect("a request");
        assert!(bare.params.is_empty());
    }

    #[test]
    fn each_fault_has_its_code() {
        let seven = || Id::Number(7.into());
        for (line, expected) in [
            ("", (Id::Null, PARSE_ERROR)),
            ("{", (Id::Null, PARSE_ERROR)),
            ("{\"jsonrpc\":3,", (Id::Null, PARSE_ERROR)),
            ("[]", (Id::Null, INVALID_REQUEST)),
            ("3", (Id::Null, INVALID_REQUEST)),
            (r#"{"id":7}"#, (seven(), INVALID_REQUEST)),
            (
                r#"{"jsonrpc":"2.0","method":"ping"}"#,
                (Id::Null, INVALID_REQUEST),
            ),
            (
                r#"{"jsonrpc":"2.0","method":"ping","id":null}"#,
                (Id::Null, INVALID_REQUEST),
            ),
            (
                r#"{"jsonrpc":"2.0","method":"ping","id":[7]}"#,
                (Id::Null, INVALID_REQUEST),
            ),
            (
                r#"{"jsonrpc":"1.0","method":"ping","id":7}"#,
                (seven(), INVALID_REQUEST),
            ),
            (
                r#"{"jsonrpc":"2.0","method":5,"id":7}"#,
                (seven(), INVALID_REQUEST),
            ),
            (
                r#"{"jsonrpc":"2.0","method":"ping","id":7,"x":1}"#,
                (seven(), INVALID_REQUEST),
            ),
            (
                r#"{"jsonrpc":"2.0","method":"ping","id":7,"params":[1]}"#,
                (seven(), INVALID_PARAMS),
            ),
            (
                r#"{"jsonrpc":"2.0","method":"ping","id":7,"id":8}"#,
                (Id::Null, INVALID_REQUEST),
            ),
        ] {
            assert_eq!(refusal(line), expected, "{line}");
        }
        let batch = parse(b"[{}]").expect_err("refused");
        assert!(batch.error.message.contains("batches"), "{}", batch.error);
    }

    #[test]
    fn invalid_parameters_name_the_key() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Params {
            #[allow(dead_code)]
            weight: u16,
        }
        let read = |value: Value| {
            let Value::Object(map) = value else {
                unreachable!("an object")
            };
            params::<Params>(map).expect_err("invalid").message
        };
        assert!(read(json!({"weight": "heavy"})).starts_with("weight: invalid type"));
        assert!(read(json!({"weight": 70000})).starts_with("weight: invalid value"));
        assert!(read(json!({"wieght": 1})).contains("unknown field `wieght`"));
        assert!(read(json!({})).contains("missing field `weight`"));
    }

    #[test]
    fn unknown_methods_get_a_hint() {
        let error = Error::unknown_method("service.lst", &["ping", "services.list"]);
        assert_eq!(error.code, UNKNOWN_METHOD);
        assert_eq!(
            error.message,
            r#"no method "service.lst"; the nearest is "services.list""#
        );
        let long = Error::unknown_method(&"é".repeat(100_000), &["ping"]);
        assert!(long.message.len() <= MESSAGE_LIMIT);
    }

    #[test]
    fn messages_are_one_short_line() {
        let error = Error::failed(format!("a\nb{}", "ü".repeat(1000)));
        assert!(error.message.starts_with("a b"));
        assert!(error.message.len() <= MESSAGE_LIMIT + '…'.len_utf8());
    }

    #[test]
    fn deep_nesting_is_refused() {
        let line = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"a":{}{}}}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert!(parse(line.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Err(refusal) = parse(&line) {
                let answer = response(&refusal.id, &Err(refusal.error.clone()));
                prop_assert_eq!(answer.matches('\n').count(), 1);
                prop_assert_eq!(parse_response(&answer), Ok(Err(refusal.error)));
            }
        }

        #[test]
        fn truncated_requests_are_parse_errors(cut in 0usize..80, text in "[a-z\"\\\\{}é]{0,20}") {
            let whole = request(3, "connections.list", &json!({"client": text}));
            let whole = whole.trim_end();
            prop_assert!(parse(whole.as_bytes()).is_ok());
            if let Some(part) = whole.as_bytes().get(..cut.min(whole.len() - 1)) {
                prop_assert_eq!(parse(part).expect_err("cut").error.code, PARSE_ERROR);
            }
        }

        #[test]
        fn any_flipped_byte_is_survived(at in 0usize..70, byte in any::<u8>()) {
            let mut line = request(3, "connections.list", &json!({"client": "192.0.2.1"})).into_bytes();
            let at = at % line.len();
            line[at] = byte;
            if let Ok(request) = parse(&line) {
                prop_assert_ne!(request.id, Id::Null);
            }
        }
    }
}
