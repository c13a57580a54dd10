//! `[jwt]`: the keys and checks of bearer tokens.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use jsonwebtoken::{Algorithm, AlgorithmFamily};

use crate::rules::Warning;
use crate::rules::reader::{Item, Table, Text};

/// Clocks that differ by more need another remedy.
const LEEWAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(300);
/// Below, the issuer would be asked constantly; above, a removed key would count for too long.
const REFRESH: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
/// Shortest secret in bytes that `larder check` does not warn of: that of the shortest hash (RFC 7518 §3.2).
const SHORTEST: usize = 32;

/// All algorithms, in the order of RFC 7518 §3.1 and RFC 8037 §3.1.
const ALGORITHMS: [(&str, Algorithm); 12] = [
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("EdDSA", Algorithm::EdDSA),
];

settings! {
"jwt":
/// `[jwt]`: which bearer tokens are valid.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtConfig {
    /// `secret`, `secret_file`, `public_key_file`, `jwks_file` or `jwks_url`
    pub keys: KeySource,
    /// `algorithms`; empty: all that fit the kind of the key
    pub algorithms: Vec<Algorithm>,
    /// `audience`: a token must be for one of them; empty: a token with `aud` is refused (RFC 7519 §4.1.3)
    pub audience: Vec<String>,
    /// `issuer`: a token must be of one of them; empty: of any
    pub issuer: Vec<String>,
    /// `leeway` for `exp` and `nbf`, default 0
    pub leeway: Duration,
    /// `require_exp`, default true
    pub require_exp: bool,
    /// `jwks_refresh`: how often a JWKS is read again, default 1h
    pub jwks_refresh: Duration,
    /// Line in the file, from 1.
    pub line: usize,
}
}

/// Where the keys come from.
#[derive(Clone, PartialEq)]
pub enum KeySource {
    /// A shared secret.
    Secret(String),
    /// A file with a shared secret.
    SecretFile(PathBuf),
    /// A public key in PEM format.
    PublicKeyFile(PathBuf),
    /// A JWK Set (RFC 7517 §5) in a file.
    JwksFile(PathBuf),
    /// A JWK Set at an http or https URL.
    JwksUrl(Uri),
}

impl KeySource {
    /// Its field in `rules.toml`.
    pub fn field(&self) -> &'static str {
        match self {
            KeySource::Secret(_) => "secret",
            KeySource::SecretFile(_) => "secret_file",
            KeySource::PublicKeyFile(_) => "public_key_file",
            KeySource::JwksFile(_) => "jwks_file",
            KeySource::JwksUrl(_) => "jwks_url",
        }
    }

    /// The field with its table.
    pub fn name(&self) -> &'static str {
        match self {
            KeySource::Secret(_) => "[jwt] secret",
            KeySource::SecretFile(_) => "[jwt] secret_file",
            KeySource::PublicKeyFile(_) => "[jwt] public_key_file",
            KeySource::JwksFile(_) => "[jwt] jwks_file",
            KeySource::JwksUrl(_) => "[jwt] jwks_url",
        }
    }

    /// Whether it is a shared secret.
    pub fn is_secret(&self) -> bool {
        matches!(self, KeySource::Secret(_) | KeySource::SecretFile(_))
    }

    /// Whether it is a JWK Set, which is read again and again.
    pub fn is_jwks(&self) -> bool {
        matches!(self, KeySource::JwksFile(_) | KeySource::JwksUrl(_))
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySource({self})")
    }
}

/// For people, without secrets.
impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::Secret(_) => f.write_str("secret"),
            KeySource::SecretFile(path) | KeySource::PublicKeyFile(path) | KeySource::JwksFile(path) => {
                write!(f, "{} = {:?}", self.field(), path.display().to_string())
            }
            // The query may hold a secret.
            KeySource::JwksUrl(url) => {
                let (scheme, authority) = (url.scheme_str().unwrap_or_default(), url.authority());
                let authority = authority.map_or("", http::uri::Authority::as_str);
                write!(f, "{} = \"{scheme}://{authority}{}\"", self.field(), url.path())
            }
        }
    }
}

/// The name of an algorithm in `rules.toml` and in tokens.
pub fn algorithm_name(algorithm: Algorithm) -> &'static str {
    ALGORITHMS.iter().find(|(_, known)| *known == algorithm).map_or("?", |(name, _)| name)
}

/// Reads `[jwt]`; `None` without it. `is_used`: a family identifies callers by claims.
pub fn read_jwt(root: &mut Table<'_>, is_used: bool) -> Option<JwtConfig> {
    let item = root.item("jwt")?;
    let mut table = item.table()?;
    table.rename("[jwt]".to_owned());
    let keys = read_keys(&mut table);
    let algorithms = table.read("algorithms", |item| read_algorithms(&item, keys.as_ref()));
    let texts = |item: Option<Item<'_>>| item.map(|item| read_texts(&item)).unwrap_or_default();
    let (audience, issuer) = (texts(table.item("audience")), texts(table.item("issuer")));
    let leeway = table.read("leeway", |item| item.duration(&LEEWAY));
    let require_exp = table.read("require_exp", |item| item.boolean());
    let refresh = table.item("jwks_refresh");
    let jwks_refresh = refresh.as_ref().and_then(|item| item.duration(&REFRESH));
    if let (Some(refresh), Some(keys)) = (&refresh, &keys)
        && !keys.is_jwks()
    {
        refresh.fault("has no effect without jwks_url or jwks_file", "remove it");
    }
    if !is_used {
        let remedy = "write identity = \"jwt:sub\" in a family, or remove the table";
        table.lacks("has no effect: no family identifies callers by claims", remedy);
    }
    table.finish();
    Some(JwtConfig {
        keys: keys?,
        algorithms: algorithms.unwrap_or_default(),
        audience,
        issuer,
        leeway: leeway.unwrap_or_default(),
        require_exp: require_exp.unwrap_or(true),
        jwks_refresh: jwks_refresh.unwrap_or(Duration::from_secs(3600)),
        line: item.line(),
    })
}

/// Exactly one source: with two it would be unclear which key a token needs.
fn read_keys(table: &mut Table<'_>) -> Option<KeySource> {
    let path = |item: &Item<'_>| Some(PathBuf::from(item.filled()?.value));
    let secret = table.item("secret");
    let secret_file = table.item("secret_file");
    let public_key_file = table.item("public_key_file");
    let jwks_file = table.item("jwks_file");
    let jwks_url = table.item("jwks_url");
    let given: Vec<&Item<'_>> =
        [&secret, &secret_file, &public_key_file, &jwks_file, &jwks_url].into_iter().flatten().collect();
    match given[..] {
        [] => {
            let remedy = "add secret = \"${JWT_SECRET}\", secret_file, public_key_file, jwks_file or jwks_url";
            table.reader().absence(table.span(), table.says("has no key"), remedy);
            return None;
        }
        [_] => {}
        [.., last] => {
            return last.refuse(
                "is a second key",
                "keep one of secret, secret_file, public_key_file, jwks_file and jwks_url",
            );
        }
    }
    if let Some(item) = secret {
        return read_secret(&item).map(KeySource::Secret);
    }
    if let Some(item) = jwks_url {
        return read_url(&item).map(KeySource::JwksUrl);
    }
    let file = |item: &Option<Item<'_>>, kind: fn(PathBuf) -> KeySource| Some(kind(path(item.as_ref()?)?));
    file(&secret_file, KeySource::SecretFile)
        .or_else(|| file(&public_key_file, KeySource::PublicKeyFile))
        .or_else(|| file(&jwks_file, KeySource::JwksFile))
}

fn read_secret(item: &Item<'_>) -> Option<String> {
    let text = item.secret("JWT_SECRET")?;
    if text.value.trim().is_empty() {
        return text.refuse("is empty", "set its variable");
    }
    if text.value.contains("-----BEGIN ") {
        return text.refuse("is no secret, but a key in PEM format", "write public_key_file = \"…\"");
    }
    Some(text.value)
}

fn read_url(item: &Item<'_>) -> Option<Uri> {
    let text = item.filled()?;
    let url = text.value.trim().parse::<Uri>().ok();
    let is_usable = |url: &Uri| {
        let is_web = matches!(url.scheme_str(), Some("http" | "https"));
        let authority = url.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        is_web && !authority.is_empty() && !authority.contains('@')
    };
    let url = url.filter(is_usable);
    if url.is_none() {
        let remedy =
            "write an http or https URL without credentials: \"https://issuer.example/.well-known/jwks.json\"";
        text.fault("is not the URL of a JWK Set", remedy);
    }
    url
}

/// One text, or a list of texts.
fn read_texts(item: &Item<'_>) -> Vec<String> {
    if item.is_list() {
        let texts: Vec<String> =
            item.texts().unwrap_or_default().into_iter().map(|text| text.value.trim().to_owned()).collect();
        if item.list().is_some_and(|list| list.is_empty()) {
            item.fault("is an empty list", "name one, or remove it");
        }
        return texts;
    }
    item.filled().map(|text| text.value.trim().to_owned()).into_iter().collect()
}

fn read_algorithms(item: &Item<'_>, keys: Option<&KeySource>) -> Option<Vec<Algorithm>> {
    let mut algorithms = Vec::new();
    let texts = item.texts()?;
    if texts.is_empty() && item.list().is_some_and(|list| list.is_empty()) {
        item.fault("is an empty list: no token would be valid", "name those that the issuer uses, or remove it");
    }
    for text in &texts {
        match ALGORITHMS.iter().find(|(name, _)| *name == text.value) {
            None => unknown_algorithm(text),
            Some((_, algorithm)) if algorithms.contains(algorithm) => {
                text.fault(format_args!("has {:?} twice", text.raw), "remove one");
            }
            Some((_, algorithm)) => {
                let is_hmac = algorithm.family() == AlgorithmFamily::Hmac;
                // A public key that is taken for a secret lets every reader of it sign tokens (RFC 8725 §2.1).
                match keys.filter(|keys| keys.is_secret() != is_hmac) {
                    Some(keys) => {
                        let (needed, field) =
                            if is_hmac { ("a secret", "secret") } else { ("a public key", "jwks_url") };
                        let message = format!("{:?} needs {needed}, and the key is {}", text.raw, keys.field());
                        text.fault(message, format!("remove it, or write {field} = \"…\""));
                    }
                    None => algorithms.push(*algorithm),
                }
            }
        }
    }
    Some(algorithms)
}

fn unknown_algorithm(text: &Text<'_>) {
    let names: Vec<&str> = ALGORITHMS.iter().map(|(name, _)| *name).collect();
    let remedy = match text.value.eq_ignore_ascii_case("none") {
        true => "remove it: an unsigned token can be forged".to_owned(),
        false => format!("write one of {}", names.join(", ")),
    };
    text.fault(format_args!("{:?} is not a supported algorithm", text.raw), remedy);
}

/// Warnings about valid settings.
pub fn warnings(jwt: &JwtConfig) -> Vec<Warning> {
    let warning = |message: &str, remedy: &str| Warning {
        line: jwt.line,
        message: message.to_owned(),
        remedy: remedy.to_owned(),
    };
    let mut warnings = Vec::new();
    match &jwt.keys {
        KeySource::Secret(secret) if secret.len() < SHORTEST => warnings.push(warning(
            "[jwt] secret is shorter than 32 bytes (RFC 7518 §3.2): a caller with one valid token can guess secrets until one fits it",
            "write a secret of at least 32 random bytes to the variable, here and where the API signs",
        )),
        KeySource::JwksUrl(url) if url.scheme_str() == Some("http") && !is_loopback(url) => warnings.push(warning(
            "[jwt] jwks_url is http: an attacker on the network between Larder and the issuer can add keys to the set",
            "write https:// in jwks_url",
        )),
        _ => {}
    }
    if !jwt.require_exp {
        warnings.push(warning(
            "[jwt] require_exp = false: a token without exp is answered from the cache for ever, also after a logout",
            "let the issuer set exp, and remove it",
        ));
    }
    warnings
}

fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides};

    const FAMILY: &str =
        "[[family]]\nname = 'me'\npath = '/me'\nidentity = 'jwt:sub'\n[invalidate]\n'/me' = ['me']\n";

    fn parsed(table: &str) -> Result<Config, String> {
        let env = |name: &str| (name == "S").then(|| "0123456789abcdef0123456789abcdef".to_owned());
        let text = format!("{FAMILY}[jwt]\n{table}");
        Config::parse(&text, "rules.toml", &Overrides::default(), &env).map_err(|faults| faults.to_string())
    }

    #[test]
    fn a_table_is_read_with_its_defaults() {
        let jwt = parsed("secret = '${S}'").unwrap().jwt.unwrap();
        assert!(jwt.keys.is_secret() && jwt.require_exp && jwt.leeway.is_zero() && jwt.algorithms.is_empty());
        assert!(!format!("{jwt:?}").contains("0123456789"));
        let url = KeySource::JwksUrl("https://a.example:1/keys?token=x".parse().unwrap());
        assert_eq!(url.to_string(), "jwks_url = \"https://a.example:1/keys\"");
        let jwt = parsed(
            "jwks_url = 'https://a.example/keys'\nalgorithms = ['RS256', 'EdDSA']\naudience = 'api'\n\
             issuer = ['a', 'b']\nleeway = '10s'\nrequire_exp = false\njwks_refresh = '5m'",
        );
        let jwt = jwt.unwrap().jwt.unwrap();
        assert_eq!(jwt.algorithms, [Algorithm::RS256, Algorithm::EdDSA]);
        assert_eq!((jwt.audience.len(), jwt.issuer.len(), jwt.require_exp), (1, 2, false));
        assert_eq!((jwt.leeway.as_secs(), jwt.jwks_refresh.as_secs()), (10, 300));
    }

    #[test]
    fn the_sample_shows_every_field_that_goes_with_a_jwk_set() {
        let sample = include_str!("../../rules.toml");
        let from = sample.find("# [jwt]").unwrap();
        let to = from + sample[from..].find("\n\n").unwrap();
        let shown: Vec<&str> =
            sample[from..to].lines().skip(1).map(|line| line.trim_start_matches("# ")).collect();
        let jwt = parsed(&shown.join("\n")).unwrap().jwt.unwrap();
        let named = JwtConfig {
            keys: KeySource::JwksUrl("https://issuer.example/.well-known/jwks.json".parse().unwrap()),
            algorithms: vec![Algorithm::RS256],
            audience: vec!["api".to_owned()],
            issuer: vec!["https://issuer.example".to_owned()],
            ..parsed("jwks_file = 'x'").unwrap().jwt.unwrap()
        };
        assert_eq!(jwt, named, "the others are the defaults");
    }

    #[test]
    fn a_table_without_effect_is_refused_with_a_remedy() {
        let rows = [
            ("", "has no key", "secret_file"),
            ("secret = 'in the file'", "must not be in the file", "${JWT_SECRET}"),
            ("secret = '${S}'\njwks_url = 'https://a/k'", "is a second key", "keep one"),
            (
                "secret = '${S}'\nalgorithms = ['none']",
                "not a supported algorithm",
                "an unsigned token can be forged",
            ),
            ("secret = '${S}'\nalgorithms = ['RS256']", "needs a public key", "jwks_url"),
            ("public_key_file = 'k.pem'\nalgorithms = ['HS256']", "needs a secret", "secret"),
            ("jwks_file = 'k'\nalgorithms = ['HS256']", "needs a secret", "secret"),
            ("secret = '${S}'\nalgorithms = []", "is an empty list", "remove it"),
            ("secret = '${S}'\nalgorithms = ['HS256', 'HS256']", "twice", "remove one"),
            ("secret = '${S}'\njwks_refresh = '1m'", "has no effect without jwks_url", "remove it"),
            ("jwks_url = 'ftp://a/k'", "is not the URL of a JWK Set", "https"),
            ("jwks_url = 'https://u:p@a/k'", "is not the URL of a JWK Set", "without credentials"),
            ("secret = '${S}'\nleeway = '1h'", "out of range", "5m"),
            ("secret = '${S}'\naudience = []", "is an empty list", "name one"),
            ("secret = '${S}'\nkey = 'x'", "unknown key", ""),
        ];
        for (table, message, remedy) in rows {
            let faults = parsed(table).unwrap_err();
            assert!(faults.contains(message) && faults.contains(remedy), "{table}: {faults}");
        }
        let text = "[jwt]\nsecret = '${S}'\n[[family]]\nname = 'a'\npath = '/a'";
        let env = |_: &str| Some("0123456789abcdef0123456789abcdef".to_owned());
        let faults = Config::parse(text, "rules.toml", &Overrides::default(), &env).unwrap_err().to_string();
        assert!(faults.contains("[jwt]: has no effect: no family identifies callers by claims"), "{faults}");
        let faults = Config::parse(FAMILY, "rules.toml", &Overrides::default(), &env).unwrap_err().to_string();
        assert!(faults.contains("needs a key") && faults.contains("[jwt]"), "{faults}");
    }

    #[test]
    fn an_identity_that_names_no_credential_is_refused_with_a_remedy() {
        let rows = [
            ("[]", "is an empty list", "identity = \"none\""),
            ("['none', 'jwt:sub']", "cannot stand in a list", "remove it from the list"),
            ("['jwt:sub', 'jwt:sub']", "twice", "remove one"),
            ("'jwt:'", "is not an identity", "jwt:tenant,sub"),
            ("'jwt:a b'", "is not an identity", "jwt:tenant,sub"),
            ("'jwt'", "is not an identity", "identity = \"jwt:sub\""),
            ("'claim:user_id'", "is not an identity", "identity = \"jwt:user_id\""),
            ("['cookie:sid', 'header:a b']", "is not an identity", "header:NAME"),
            ("['cookie:a', 7]", "must be a string", "quotes"),
        ];
        for (identity, message, remedy) in rows {
            let family = FAMILY.replace("'jwt:sub'", identity);
            let text = format!(
                "{family}[[family]]\nname = 'x'\npath = '/x'\nidentity = 'jwt:sub'\n[jwt]\nsecret = '${{S}}'"
            );
            let text = text.replacen("[invalidate]\n'/me' = ['me']\n", "", 1);
            let env = |_: &str| Some("0123456789abcdef0123456789abcdef".to_owned());
            let faults = Config::parse(&text, "rules.toml", &Overrides::default(), &env).unwrap_err().to_string();
            assert!(faults.contains(message) && faults.contains(remedy), "{identity}: {faults}");
        }
    }

    #[test]
    fn weak_settings_are_warned_of() {
        let warned = |table: &str| {
            let config = parsed(table).unwrap();
            warnings(config.jwt.as_ref().unwrap())
                .iter()
                .map(|it| it.message.clone())
                .collect::<Vec<_>>()
                .join("\n")
        };
        assert_eq!(warned("secret = '${S}'"), "");
        assert_eq!(warned("jwks_url = 'http://127.0.0.1:1/keys'"), "");
        assert_eq!(warned("jwks_url = 'https://a.example/keys'"), "");
        assert!(warned("jwks_url = 'http://a.example/keys'").contains("is http"));
        assert!(warned("secret = 'x${S:-}'").is_empty());
        assert!(warned("secret = 'x${NONE:-}'").contains("shorter than 32"));
        assert!(warned("secret = '${S}'\nrequire_exp = false").contains("for ever"));
    }
}
