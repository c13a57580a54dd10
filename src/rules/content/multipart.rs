//! Reads `multipart/form-data` (RFC 7578), strictly: parsers differ in how they read what the RFC does not allow, and also in
//! some of what it allows (text before the first and after the last delimiter). All of that is malformed here.

use bytes::Bytes;
use futures_util::FutureExt;
use http::HeaderMap;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};

use super::{FormFields, Unresolved};

/// Longest boundary, in bytes (RFC 2046 §5.1.1).
const BOUNDARY: usize = 70;

/// The boundary, from the parameters of `Content-Type`. `None` if servers may take another one.
pub fn boundary(parameters: &str) -> Option<String> {
    let mut found = None;
    for parameter in parameters.split(';') {
        let (name, value) = parameter.split_once('=')?;
        let value = plain(value.trim())?;
        match name.trim().to_ascii_lowercase().as_str() {
            "boundary" if found.is_none() => found = Some(value),
            "charset" if value.eq_ignore_ascii_case("utf-8") => {}
            _ => return None,
        }
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_-./:=?".contains(&byte);
    found
        .filter(|text| !text.is_empty() && text.len() <= BOUNDARY && text.bytes().all(is_allowed))
        .map(str::to_owned)
}

/// The fields of a form. All of it is in memory, so that nothing waits.
pub fn read(bytes: &[u8], boundary: &str) -> Result<FormFields, Unresolved> {
    if !is_framed_plainly(bytes, boundary) {
        return Err(Unresolved::Malformed);
    }
    let whole = Bytes::copy_from_slice(bytes);
    let stream = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(whole)]);
    let fields = async {
        let mut parts = multer::Multipart::new(stream, boundary);
        let mut fields = Vec::new();
        while let Some(part) = parts.next_field().await.map_err(|_| Unresolved::Malformed)? {
            if !is_plain_part(part.headers()) {
                return Err(Unresolved::Malformed);
            }
            // RFC 7578 §4.6: a field of this name says how the others are encoded.
            let name = part.name().filter(|name| !name.eq_ignore_ascii_case("_charset_"));
            let name = name.ok_or(Unresolved::Malformed)?.to_owned();
            let is_file = part.file_name().is_some();
            let value = part.bytes().await.map_err(|_| Unresolved::Malformed)?;
            let value = String::from_utf8(value.to_vec()).ok().filter(|_| !is_file);
            fields.push((name, value));
        }
        Ok(fields)
    };
    fields.now_or_never().unwrap_or(Err(Unresolved::Malformed))
}

/// Whether every occurrence of the delimiter is a whole line that ends in CRLF, the first starts the content, and only white
/// space follows the closing one. Each part has a header section of unfolded lines that end in CRLF.
fn is_framed_plainly(bytes: &[u8], boundary: &str) -> bool {
    let delimiter = format!("--{boundary}");
    let Some(mut rest) = bytes.strip_prefix(delimiter.as_bytes()) else { return false };
    loop {
        if let Some(after) = rest.strip_prefix(b"--") {
            return after.trim_ascii().is_empty();
        }
        let Some(part) = rest.strip_prefix(b"\r\n") else { return false };
        let Some(end) = find(part, delimiter.as_bytes()) else { return false };
        let Some(whole) = part[..end].strip_suffix(b"\r\n") else { return false };
        let Some(head) = find(whole, b"\r\n\r\n") else { return false };
        if !has_plain_lines(&whole[..head]) {
            return false;
        }
        rest = &part[end + delimiter.len()..];
    }
}

/// Whether each line is a field of its own name: parsers differ in which of two equal fields they take.
fn has_plain_lines(head: &[u8]) -> bool {
    let Ok(head) = std::str::from_utf8(head) else { return false };
    let mut names: Vec<String> = Vec::new();
    head.split("\r\n").all(|line| {
        let Some((name, value)) = line.split_once(':') else { return false };
        let is_new = !names.iter().any(|known| known.eq_ignore_ascii_case(name));
        names.push(name.to_owned());
        is_new && http::HeaderName::try_from(name).is_ok() && !value.contains(['\r', '\n', '\0'])
    })
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Whether all servers take the same name from these fields of a part, and its value as it stands.
fn is_plain_part(fields: &HeaderMap) -> bool {
    let Some(disposition) = fields.get(CONTENT_DISPOSITION) else { return false };
    let is_plain = std::str::from_utf8(disposition.as_bytes()).is_ok_and(is_plain_disposition);
    let is_text = fields.get(CONTENT_TYPE).is_none_or(|line| {
        let line = line.to_str().unwrap_or("multipart/").to_ascii_lowercase();
        // A nested multipart has parts of its own; another charset has other bytes for a text.
        let (_, charset) = line.split_once("charset").unwrap_or(("", "=utf-8"));
        let charset = charset.trim_matches([' ', '=', '"']);
        !line.trim().starts_with("multipart/") && charset == "utf-8"
    });
    // RFC 7578 §4.7: deprecated, and ignored by most servers.
    is_plain && is_text && !fields.contains_key("content-transfer-encoding")
}

/// `form-data` with one `name`, and perhaps one `filename`, neither escaped nor in the notation of RFC 8187.
fn is_plain_disposition(text: &str) -> bool {
    let mut parts = text.split(';');
    let is_form_data = parts.next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("form-data"));
    let mut names: Vec<&str> = Vec::new();
    let mut take = |parameter: &'_ str| {
        let (name, value) = parameter.split_once('=')?;
        let name = ["name", "filename"].into_iter().find(|known| *known == name.trim())?;
        // Browsers write `%22` for a quote, which some servers decode.
        let is_escaped = name == "name" && value.contains('%');
        let is_new = !names.contains(&name);
        names.push(name);
        (is_new && !is_escaped && plain(value.trim()).is_some()).then_some(())
    };
    is_form_data && parts.all(|parameter| take(parameter).is_some()) && names.contains(&"name")
}

/// The text of a parameter: in quotes or not, without escapes.
fn plain(value: &str) -> Option<&str> {
    let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let text = quoted.unwrap_or(value);
    let is_whole = quoted.is_some() || !text.contains([' ', '\t', ',']);
    (is_whole && !text.contains(['"', '\\'])).then_some(text)
}
