//! TLS to Redis with an authority of one's own, and with a certificate that Larder shows; TLS to upstream.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use larder::config::StoreConfig;
use larder::store::redis::{ConnectFault, RedisStore};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use crate::store_redis::config;
use crate::support::redis::free_port;
use crate::support::{PATIENCE, Plan, RedisCluster, RedisServer, Upstream, eventually};

const RULES: &str = r#"
[[family]]
name = "users"
path = '/users'
ttl = "60s"
"#;

/// Runs openssl in this directory.
fn openssl(dir: &Path, arguments: &str) {
    let ran = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output();
    let ran = ran.expect("openssl can be run; tests/run installs it");
    assert!(ran.status.success(), "{arguments}: {}", String::from_utf8_lossy(&ran.stderr));
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";

/// `{name}.pem` and `{name}.key` of an authority.
fn authority(dir: &Path, name: &str) {
    openssl(dir, &format!("req -x509 {KEY} -subj /CN={name} -keyout {name}.key -out {name}.pem"));
}

/// `{name}.pem` and `{name}.key`, which this authority vouches for.
fn certificate(dir: &Path, name: &str, authority: &str) {
    std::fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1").unwrap();
    openssl(dir, &format!("req {KEY} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
    let signed = format!("x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial");
    openssl(dir, &format!("{signed} -days 2 -extfile names -out {name}.pem"));
}

/// A directory with all certificates.
pub fn certificates() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    authority(dir.path(), "ours");
    authority(dir.path(), "theirs");
    certificate(dir.path(), "server", "ours");
    certificate(dir.path(), "larder", "ours");
    dir
}

/// What a server is told of them. `clients`: whether clients must show one.
fn arguments(dir: &TempDir, clients: &str) -> Vec<String> {
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let files = [("ca-cert", "ours.pem"), ("cert", "server.pem"), ("key", "server.key")];
    let files = files.iter().flat_map(|(what, name)| [format!("--tls-{what}-file"), path(name)]);
    files.chain(["--tls-auth-clients".to_owned(), clients.to_owned()]).collect()
}

/// Redis with TLS, and the directory with all certificates.
fn server(clients: &str) -> (RedisServer, u16, TempDir) {
    let dir = certificates();
    let (port, arguments) = (free_port().to_string(), arguments(&dir, clients));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["--tls-port", &port]).collect();
    let server = RedisServer::start_with(&arguments);
    let port = server.public_port();
    (server, port, dir)
}

/// `[store]` with these fields, of files in this directory.
fn plan(upstream: &Upstream, port: u16, dir: &TempDir, fields: &[(&str, &str)]) -> Plan {
    plan_for(upstream, &format!("rediss://127.0.0.1:{port}"), dir, fields)
}

fn plan_for(upstream: &Upstream, url: &str, dir: &TempDir, fields: &[(&str, &str)]) -> Plan {
    let field = |(field, file): &(&str, &str)| format!("{field} = '{}'\n", dir.path().join(file).display());
    let fields: String = fields.iter().map(field).collect();
    Plan::new(&upstream.url()).rules(&format!("{RULES}\n[store]\n{fields}")).redis(url)
}

#[test]
fn a_server_is_trusted_whose_certificate_comes_from_the_authority_that_the_rules_name() {
    let (upstream, (_server, port, dir)) = (Upstream::start(), server("no"));
    let ours = plan(&upstream, port, &dir, &[("tls_ca", "ours.pem")]);
    let (larder, other) = (ours.start(), ours.start());
    larder.get("/users").shows("stored");
    eventually("the other proxy has hits", || other.get("/users").is("hit"));
    eventually("it is logged", || larder.log().contains("the connection to Redis is up"));
    // The channel works too.
    assert!(!larder.log().contains("cannot subscribe to the channel"), "{}", larder.log());
    for fields in [&[("tls_ca", "theirs.pem")][..], &[]] {
        let exit = plan(&upstream, port, &dir, fields).fail();
        assert!(exit.stderr.contains("TLS") && exit.stderr.contains("tls_ca"), "{exit:?}");
    }
}

#[test]
fn a_server_that_asks_for_a_certificate_gets_the_one_that_the_rules_name() {
    let (upstream, (_server, port, dir)) = (Upstream::start(), server("yes"));
    let shown = [("tls_ca", "ours.pem"), ("tls_cert", "larder.pem"), ("tls_key", "larder.key")];
    let larder = plan(&upstream, port, &dir, &shown).start();
    larder.get("/users").shows("stored");
    eventually("hits begin", || larder.get("/users").is("hit"));
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_is_not_used_without_one() {
    let (_server, port, dir) = server("yes");
    let config =
        StoreConfig { tls_ca: Some(dir.path().join("ours.pem")), ..config(&format!("rediss://127.0.0.1:{port}")) };
    // The server tells why, and closes the connection: the one or the other comes first.
    let fault = RedisStore::new(&config).unwrap().connect_once().await.unwrap_err();
    let reason = fault.to_string();
    assert!(reason.contains("TLS") || matches!(fault, ConnectFault::Unreachable { .. }), "{reason}");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let (upstream, (_server, port, dir)) = (Upstream::start(), server("no"));
    std::fs::write(dir.path().join("empty.pem"), "nothing").unwrap();
    for (fields, message) in [
        (&[("tls_ca", "missing.pem")][..], "tls_ca"),
        (&[("tls_ca", "empty.pem")], "holds no CERTIFICATE"),
        (&[("tls_ca", "server.key")], "holds no CERTIFICATE"),
        (&[("tls_cert", "larder.pem"), ("tls_key", "larder.pem")], "holds no PRIVATE KEY"),
    ] {
        let exit = plan(&upstream, port, &dir, fields).fail();
        assert!(
            exit.stderr.contains(message) && exit.stderr.contains(dir.path().to_str().unwrap()),
            "{fields:?}: {exit:?}"
        );
    }
}

#[test]
fn the_nodes_of_a_cluster_are_found_and_asked_over_tls() {
    let (upstream, dir) = (Upstream::start(), certificates());
    let arguments = arguments(&dir, "no");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let tls = ["--tls-cluster", "yes", "--tls-replication", "yes"];
    let cluster = RedisCluster::start_with(&[&arguments[..], &tls].concat());
    let url = cluster.url().replace("redis+", "rediss+");
    let plan = plan_for(&upstream, &url, &dir, &[("tls_ca", "ours.pem")]);
    let (larder, other) = (plan.start(), plan.start());
    for page in 0..20 {
        larder.get(&format!("/users?page={page}")).shows("stored");
    }
    let all_are_hits = || (0..20).all(|page| other.get(&format!("/users?page={page}")).is("hit"));
    eventually("the other proxy has hits", all_are_hits);
    let entries = cluster.entries("larder:*:v1");
    assert!(entries[..3].iter().all(|count| *count > 0), "{entries:?}");
    assert!(!larder.log().contains("cannot subscribe to the channel"), "{}", larder.log());
}

/// An upstream that speaks TLS.
pub fn tls_upstream(dir: &TempDir) -> (TcpListener, Arc<ServerConfig>) {
    let chain = CertificateDer::pem_file_iter(dir.path().join("server.pem")).unwrap().map(Result::unwrap);
    let key = PrivateKeyDer::from_pem_file(dir.path().join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain.collect(), key).unwrap();
    (TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(config))
}

type Tls = StreamOwned<ServerConnection, TcpStream>;

fn accept(listener: &TcpListener, config: &Arc<ServerConfig>) -> Tls {
    let stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream)
}

fn answer(upstream: &mut Tls, answer: &str) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        upstream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    upstream.write_all(answer.as_bytes()).unwrap();
}

/// RFC 9112 §6.3, as in `http::leftovers`.
#[test]
fn bytes_behind_a_response_end_a_tls_connection_to_upstream_too() {
    let dir = certificates();
    let (listener, config) = tls_upstream(&dir);
    let url = format!("https://{}", listener.local_addr().unwrap());
    let authority = dir.path().join("ours.pem");
    let larder = Plan::new(&url).environment("SSL_CERT_FILE", authority.to_str().unwrap()).start();
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let ask = |method: &str, path: &str| larder.call(method, path).start();
    let first = ask("GET", "/a");
    let mut upstream = accept(&listener, &config);
    answer(&mut upstream, ok);
    first.response().carries("ok");
    // It is used again, until something comes that nobody asked for.
    let second = ask("HEAD", "/a");
    answer(&mut upstream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    second.response().has_status(200);
    upstream.write_all(ok.replace("ok", "no").as_bytes()).unwrap();
    upstream.flush().unwrap();
    let ended = upstream.read(&mut [0]);
    assert!(!matches!(ended, Ok(1..)), "nothing was sent on it");
    let third = ask("GET", "/b");
    let mut upstream = accept(&listener, &config);
    answer(&mut upstream, ok);
    third.response().carries("ok");
    let fourth = ask("GET", "/c");
    answer(&mut upstream, ok);
    fourth.response().carries("ok");
}

/// Fields of a table, with files or names.
type Fields = &'static [(&'static str, &'static str)];

/// `[server.upstream_tls]` with these fields.
fn tls_plan(url: &str, dir: &TempDir, fields: Fields) -> Plan {
    let field = |(field, file): &(&str, &str)| match *field {
        "server_name" => format!("server_name = '{file}'\n"),
        field => format!("{field} = '{}'\n", dir.path().join(file).display()),
    };
    Plan::new(url).rules(&format!("[server.upstream_tls]\n{}", fields.iter().map(field).collect::<String>()))
}

#[test]
fn an_upstream_is_trusted_whose_certificate_comes_from_the_authority_that_the_rules_name() {
    let dir = certificates();
    let (listener, config) = tls_upstream(&dir);
    let port = listener.local_addr().unwrap().port();
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let rows: [(&str, Fields); 2] = [
        ("127.0.0.1", &[("ca", "ours.pem"), ("cert", "larder.pem"), ("key", "larder.key")]),
        // The certificate is for 127.0.0.1.
        ("localhost", &[("ca", "ours.pem"), ("server_name", "127.0.0.1")]),
    ];
    for (host, fields) in rows {
        let larder = tls_plan(&format!("https://{host}:{port}"), &dir, fields).start();
        let asked = larder.call("GET", "/a").start();
        answer(&mut accept(&listener, &config), ok);
        asked.response().carries("ok");
    }
}

#[test]
fn why_upstream_cannot_be_reached_is_logged() {
    let dir = certificates();
    let (listener, config) = tls_upstream(&dir);
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
            let _ = tls.read(&mut [0]);
        }
    });
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let rows: [(String, Fields, &str); 3] = [
        (format!("https://127.0.0.1:{port}"), &[("ca", "theirs.pem")], "certificate signed by unknown authority"),
        (format!("https://localhost:{port}"), &[("ca", "ours.pem")], "certificate is for another name"),
        (format!("https://127.0.0.1:{nobody}"), &[("ca", "ours.pem")], "connection refused"),
    ];
    for (url, fields, cause) in rows {
        let larder = tls_plan(&url, &dir, fields).start();
        larder.get("/a").has_status(502);
        eventually(cause, || larder.log().contains(cause));
        assert!(larder.log().contains("upstream cannot be reached"), "{}", larder.log());
    }
    let exit = tls_plan("https://127.0.0.1:1", &dir, &[("ca", "nowhere.pem")]).fail();
    assert!(exit.code == Some(2) && exit.stderr.contains("[server.upstream_tls] ca"), "{exit:?}");
}
