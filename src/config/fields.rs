//! Reads the fields of a table, and checks the flags that override them.

use std::path::PathBuf;
use std::str::FromStr as _;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::address::InvalidValue;
use crate::http::headers::{Credentials, dashed};
use crate::rules::fault::Fault;
use crate::rules::reader::{Item, Table, Text};

/// The table `[key]` of the file, if it has one; faults name it so.
pub fn section<'t>(root: &mut Table<'t>, key: &'static str) -> Option<Table<'t>> {
    let mut table = root.item(key)?.table()?;
    table.rename(format!("[{key}]"));
    Some(table)
}

/// Sets the field if the value is present and valid.
pub fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// What `check` makes of the field's text; the reader notes what it refuses.
pub fn checked<T>(item: &Item<'_>, check: impl Fn(&str) -> Result<T, InvalidValue>) -> Option<T> {
    passed(&item.filled()?, check)
}

/// The field's text without white space around it, if `check` accepts it.
pub fn text_passing(item: &Item<'_>, check: impl Fn(&str) -> Result<(), InvalidValue>) -> Option<String> {
    let text = item.filled()?;
    passed(&text, check).map(|()| text.value.trim().to_owned())
}

/// What `check` makes of a text of the file; the reader notes what it refuses.
pub fn passed<T>(text: &Text<'_>, check: impl Fn(&str) -> Result<T, InvalidValue>) -> Option<T> {
    check(&text.value).map_err(|wrong| text.fault(wrong.message, wrong.remedy)).ok()
}

/// What `check` makes of the texts of a list, without those that it refuses.
pub fn all_passing<T>(item: &Item<'_>, check: impl Fn(&str) -> Result<T, InvalidValue>) -> Option<Vec<T>> {
    Some(item.texts()?.iter().filter_map(|text| passed(text, &check)).collect())
}

/// What `check` makes of a flag's value. What it refuses goes to `flags`, for it has no place in the file.
pub fn flag<T>(
    name: &str,
    value: Option<&str>,
    check: impl Fn(&str) -> Result<T, InvalidValue>,
    flags: &mut Vec<Fault>,
) -> Option<T> {
    check(value?).map_err(|wrong| flags.push(Fault::in_flag(name, wrong.message, wrong.remedy))).ok()
}

/// Certificate authorities, a client certificate with its key, and the position of one of these fields.
pub type TlsFiles<'t> = (Option<PathBuf>, Option<(PathBuf, PathBuf)>, Option<Item<'t>>);

/// The TLS fields of a table.
pub fn read_tls_files<'t>(table: &mut Table<'t>, names: [&'static str; 3]) -> TlsFiles<'t> {
    let [ca, cert, key] = names.map(|field| table.item(field));
    let path = |item: &Option<Item<'t>>| Some(PathBuf::from(item.as_ref()?.filled()?.value));
    let found = (path(&ca), path(&cert).zip(path(&key)));
    match (&cert, &key) {
        (Some(alone), None) => alone.fault("is set without its key", format!("add {} = \"…\"", names[2])),
        (None, Some(alone)) => {
            alone.fault("is set without its certificate", format!("add {} = \"…\"", names[1]));
        }
        _ => {}
    }
    (found.0, found.1, ca.or(cert).or(key))
}

/// The fields in a `headers` table, of requests that Larder sends itself, and whether a credential among them has a default. `kind`: what
/// messages call an entry. `refused`: why a field cannot be set, and what to do. `credentials`: which fields have to come from the
/// environment, and the variable that the remedy names.
pub fn read_request_fields(
    item: &Item<'_>,
    kind: &str,
    refused: impl Fn(&HeaderName) -> Option<(&'static str, &'static str)>,
    (credentials, variable): (&Credentials, &str),
) -> (HeaderMap, bool) {
    let (mut headers, mut has_default) = (HeaderMap::new(), false);
    let Some(table) = item.table() else { return (headers, false) };
    for (name, span, item) in table.named_entries(kind) {
        let Ok(known) = HeaderName::from_str(name) else {
            Text::of_key(table.reader(), kind.to_owned(), span, name)
                .fault("a name is no field name", "write a name such as Authorization");
            continue;
        };
        if let Some((message, remedy)) = refused(&known) {
            item.fault(message, remedy);
            continue;
        }
        let Some(text) = item.filled() else { continue };
        if credentials.tell_callers(&dashed(&known)) {
            if text.showable().is_some() {
                let remedy =
                    format!("write \"${{{variable}}}\" in place of the credentials, and set that variable");
                text.fault("must not be in the file", remedy);
                continue;
            }
            has_default |= text.has_default();
        }
        match HeaderValue::from_str(text.value.trim()) {
            Ok(mut value) => {
                value.set_sensitive(true);
                headers.insert(known, value);
            }
            Err(_) => text.fault("has a character that cannot be sent in a field", "use visible ASCII characters"),
        }
    }
    (headers, has_default)
}
