use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn fields(content_type: &str) -> HeaderMap {
    [(CONTENT_TYPE, content_type.parse().unwrap())].into_iter().collect()
}

fn found(content_type: &str, content: &str, place: &str) -> ValuesAt {
    read(content_type, content.as_bytes(), &place.split('.').map(str::to_owned).collect())
}

fn read(content_type: &str, content: &[u8], place: &ContentPlace) -> ValuesAt {
    let content = RuleContent::read(&fields(content_type), content, std::slice::from_ref(place));
    assert!(content.values(&["other".to_owned()]).is_err(), "only the place that was asked for is known");
    content.values(place)
}

type Row = (&'static str, &'static str, Result<&'static [&'static str], Unresolved>);

fn compare(content_type: &str, rows: &[Row]) {
    for (content, place, expected) in rows {
        let expected = expected.map(|values| values.iter().map(|value| (*value).to_owned()).collect());
        assert_eq!(found(content_type, content, place), expected, "{place} of {content}");
    }
}

#[test]
fn values_in_json_are_texts_and_whole_numbers_and_lists_of_them() {
    use Unresolved::{Malformed, Missing, NoContent, WrongType};
    compare(
        "application/json; charset=utf-8",
        &[
            (r#"{"id": 7}"#, "id", Ok(&["7"])),
            (r#"{"id": "7"}"#, "id", Ok(&["7"])),
            (r#"{"id": 7.0}"#, "id", Ok(&["7"])),
            (r#"{"id": -0.0}"#, "id", Ok(&["0"])),
            (r#"{"id": 1e2}"#, "id", Ok(&["100"])),
            (r#"{"id": "\u00e4"}"#, "id", Ok(&["ä"])),
            (r#"{"user": {"id": 7}}"#, "user.id", Ok(&["7"])),
            (r#"{"ids": [7, "8"]}"#, "ids", Ok(&["7", "8"])),
            (r#"[{"id": 7}, {"id": 8}]"#, "id", Ok(&["7", "8"])),
            (r#"{"items": [{"id": 7}, {"id": 8}]}"#, "items.1.id", Ok(&["8"])),
            (r#"[7]"#, "0", Ok(&["7"])),
            // Servers take either.
            (r#"{"id": 7, "id": 8}"#, "id", Ok(&["7", "8"])),
            (r#"{"ID": 7, "id": 8}"#, "id", Ok(&["7", "8"])),
            (r#"{"u": {"id": 7}, "u": {"id": 8}}"#, "u.id", Ok(&["7", "8"])),
            (r#"{"id": 7, "id": null}"#, "id", Err(WrongType)),
            (r#"{"id": null}"#, "id", Err(WrongType)),
            (r#"{"id": true}"#, "id", Err(WrongType)),
            (r#"{"id": 1.5}"#, "id", Err(WrongType)),
            (r#"{"id": 9007199254740993}"#, "id", Err(WrongType)),
            (r#"{"id": 99999999999999999999}"#, "id", Err(WrongType)),
            (r#"{"id": {}}"#, "id", Err(WrongType)),
            (r#"{"ids": [7, null]}"#, "ids", Err(WrongType)),
            (r#"{"ids": [[7]]}"#, "ids", Err(WrongType)),
            (r#"{"id": 7}"#, "id.x", Err(WrongType)),
            (r#"{"ids": []}"#, "ids", Err(Missing)),
            (r#"{"x": 7}"#, "id", Err(Missing)),
            (r#"[{"id": 7}, {}]"#, "id", Err(Missing)),
            (r#"{"id": 7"#, "id", Err(Malformed)),
            (r#"{"id": 7} x"#, "id", Err(Malformed)),
            (r#"{"id": "\ud800"}"#, "id", Err(Malformed)),
            ("\u{feff}{\"id\": 7}", "id", Err(Malformed)),
            ("", "id", Err(NoContent)),
        ],
    );
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(found("application/json", &deep, "id"), Err(Malformed));
    let many = json!({ "ids": vec![7; VALUES + 1] }).to_string();
    assert_eq!(found("application/json", &many, "ids"), Err(Unresolved::TooMany));
}

#[test]
fn values_in_forms_are_those_of_all_fields_that_a_server_may_take_for_the_place() {
    use Unresolved::{Malformed, Missing};
    compare(
        "application/x-www-form-urlencoded",
        &[
            ("id=7", "id", Ok(&["7"])),
            ("x=1&id=a+b%2B", "id", Ok(&["a b+"])),
            ("id=7&id=8", "id", Ok(&["7", "8"])),
            ("id[]=7&id[1]=8", "id", Ok(&["7", "8"])),
            ("user[id]=7", "user.id", Ok(&["7"])),
            ("user.id=7&User_Id=8", "user.id", Ok(&["7", "8"])),
            ("id", "id", Ok(&[""])),
            ("ids=7", "id", Err(Missing)),
            ("id=%zz", "id", Err(Malformed)),
            ("id=7;x=1", "id", Err(Malformed)),
            // What curl -d sends without a Content-Type.
            (r#"{"id": 7}"#, "id", Err(Missing)),
        ],
    );
    let part =
        |name: &str, value: &str| format!("--b\r\nContent-Disposition: form-data; {name}\r\n\r\n{value}\r\n");
    let form = |parts: &[(&str, &str)]| {
        parts.iter().map(|(name, value)| part(name, value)).collect::<String>() + "--b--\r\n"
    };
    let rows: [(String, Result<&[&str], Unresolved>); 7] = [
        (form(&[("name=\"id\"", "7")]), Ok(&["7"])),
        (form(&[("name=\"x\"", "1"), ("name=id", "7"), ("name=\"id\"", "8")]), Ok(&["7", "8"])),
        (form(&[("name=\"id\"; filename=\"f\"", "7")]), Err(Unresolved::WrongType)),
        (form(&[("name=\"id\"; name*=utf-8''x", "7")]), Err(Malformed)),
        (form(&[("name=\"x\"", "7")]), Err(Missing)),
        (form(&[("name=\"id\"", "7")]).replace("--b--\r\n", ""), Err(Malformed)),
        (form(&[("name=\"id\"\r\nContent-Transfer-Encoding: base64", "Nw==")]), Err(Malformed)),
    ];
    for (content, expected) in rows {
        let expected = expected.map(|values| values.iter().map(|value| (*value).to_owned()).collect());
        assert_eq!(found("multipart/form-data; boundary=b", &content, "id"), expected, "{content}");
    }
}

#[test]
fn a_multipart_form_that_servers_read_differently_is_malformed() {
    let part = "Content-Disposition: form-data; name=\"id\"\r\n\r\n7\r\n";
    let plain = format!("--b\r\n{part}--b--\r\n");
    assert_eq!(found("multipart/form-data; boundary=b", &plain, "id"), Ok(vec!["7".to_owned()]));
    let contents = [
        format!("{plain}--b\r\n{part}--b--\r\n"),
        format!("{plain}epilogue"),
        format!("preamble\r\n{plain}"),
        format!("\r\n{plain}"),
        format!("--b\r\n{part}"),
        format!("--b\r\n{part}--b\r\n"),
        plain.replace("\r\n", "\n"),
        plain.replace("7\r\n", "7\n"),
        plain.replace("7\r\n", "7\n--b\n"),
        plain.replace("--b\r\n", "--b \r\n"),
        plain.replace("7\r\n", "7\r\n--bc\r\n"),
        plain.replace("name=\"id\"", "name=\"id\"; name=\"x\""),
        plain.replace("name=\"id\"", "name=\"id\"; name*=utf-8''x"),
        plain.replace("name=\"id\"", "name=\"id\"; filename*=utf-8''x"),
        plain.replace("name=\"id\"", "name=\"i\\d\""),
        plain.replace("name=\"id\"", "name=\"i%64\""),
        plain.replace("name=\"id\"", "\r\n name=\"id\""),
        plain.replace("form-data", "attachment"),
        plain.replace("\r\n\r\n7", "\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n7"),
        plain.replace("\r\n\r\n7", "\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n7"),
        plain.replace("\r\n\r\n7", "\r\nContent-Type: text/plain; charset=utf-16\r\n\r\n7"),
        plain.replace("\r\n\r\n7", "\nX: y\r\n\r\n7"),
        plain.replace("\"id\"", "\"_charset_\""),
    ];
    for content in contents {
        let found = found("multipart/form-data; boundary=b", &content, "id");
        assert_eq!(found, Err(Unresolved::Malformed), "{content:?}");
    }
    let types = [
        "boundary=b; boundary=c",
        "boundary=b; boundary*=c",
        "boundary=b; x=y",
        "boundary=\"b\\\"\"",
        "boundary=b,c",
        "boundary=",
        "boundary=b c",
    ];
    for parameters in types {
        let found = found(&format!("multipart/form-data; {parameters}"), &plain, "id");
        assert_eq!(found, Err(Unresolved::Malformed), "{parameters}");
    }
    for parameters in ["boundary=\"b\"", "charset=UTF-8; boundary=b"] {
        let found = found(&format!("multipart/form-data; {parameters}"), &plain, "id");
        assert_eq!(found, Ok(vec!["7".to_owned()]), "{parameters}");
    }
}

#[test]
fn content_is_read_only_if_all_servers_read_it_alike() {
    let rows = [
        ("application/json", None),
        ("application/merge-patch+json", None),
        ("Application/JSON ; Charset=\"UTF-8\"", None),
        ("application/json; charset=utf-16", Some(Unresolved::OtherType)),
        ("text/plain", Some(Unresolved::OtherType)),
        ("multipart/form-data", Some(Unresolved::Malformed)),
        ("application/xml", Some(Unresolved::OtherType)),
    ];
    for (content_type, expected) in rows {
        assert_eq!(RuleContent::unreadable(&fields(content_type)), expected, "{content_type}");
    }
    assert_eq!(RuleContent::unreadable(&HeaderMap::new()), Some(Unresolved::OtherType));
    let mut twice = fields("application/json");
    twice.append(CONTENT_TYPE, "text/plain".parse().unwrap());
    assert_eq!(RuleContent::unreadable(&twice), Some(Unresolved::OtherType));
    let mut compressed = fields("application/json");
    compressed.insert(CONTENT_ENCODING, "gzip".parse().unwrap());
    assert_eq!(RuleContent::unreadable(&compressed), Some(Unresolved::Compressed));
    compressed.insert(CONTENT_ENCODING, "identity".parse().unwrap());
    assert_eq!(RuleContent::unreadable(&compressed), None);
}

fn any_json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        any::<i32>().prop_map(Value::from),
        "[a-z0-9 %:é]{0,6}".prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ];
    scalar.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[ab]", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The values by serde_json, in a text without equal keys and without steps into lists.
fn oracle(json: &Value, place: &[String]) -> Option<Vec<String>> {
    let text =
        |value: &Value| value.as_str().map(str::to_owned).or_else(|| value.as_i64().map(|it| it.to_string()));
    let value = place.iter().try_fold(json, |json, step| json.as_object()?.get(step))?;
    match value {
        Value::Array(elements) => {
            elements.iter().map(text).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty())
        }
        scalar => Some(vec![text(scalar)?]),
    }
}

fn has_list_before_the_end(json: &Value, place: &[String]) -> bool {
    let Some((step, rest)) = place.split_first() else { return false };
    json.is_array() || json.get(step).is_some_and(|json| has_list_before_the_end(json, rest))
}

proptest! {
    #[test]
    fn the_values_in_json_are_those_that_serde_json_finds(
        json in any_json(), place in prop::collection::vec("[ab]", 1..3)
    ) {
        prop_assume!(!has_list_before_the_end(&json, &place));
        let found = read("application/json", json.to_string().as_bytes(), &place);
        prop_assert_eq!(found.ok(), oracle(&json, &place));
    }

    #[test]
    fn the_values_in_a_form_are_those_that_were_written(
        pairs in prop::collection::vec(("[abc]", "[a-z &=+%;é]{0,5}"), 1..5)
    ) {
        let encode = |text: &str| super::super::source::encoded(text.as_bytes(), |byte| byte.is_ascii_alphanumeric());
        let text: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let expected: Vec<String> =
            pairs.iter().filter(|(name, _)| name == "a").map(|(_, value)| value.clone()).collect();
        let found = found("application/x-www-form-urlencoded", &text.join("&"), "a");
        prop_assert_eq!(found.unwrap_or_default(), expected);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), kind in 0..3usize) {
        let kinds = ["application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"];
        let _ = read(kinds[kind], &bytes, &vec!["a".to_owned()]);
    }
}
