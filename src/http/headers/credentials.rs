//! Request fields with credentials: one table for deciding whom a response is for, and what a key must not contain
//! verbatim.
//!
//! A request with a field that carries credentials, and by which its family does not tell callers apart, is answered from the
//! cache only with responses that RFC 9111 §3.5 lets everybody have, and shares no fetch. What is stored under one caller's key
//! may be read by the next request with that key, so that a caller with further credentials gets only these responses, too.

use http::{HeaderMap, HeaderName};

use super::shapes::NameShapes;

/// Fields that identify or authenticate the caller, each with its recipients; quotation marks enclose the title of
/// the documentation. Compared with `_` as `-`. Sorted.
static CREDENTIALS: [&str; 136] = [
    "access-token",                // devise_token_auth (Rails): "Controller methods", token header format
    "api-key",                     // Azure OpenAI and AI Search: REST reference, "Authentication"
    "api-username",                // Discourse API: the user that a key acts for
    "apikey",                      // Kong key-auth (its default), Supabase: "API keys"
    "auth-token",                  // hand-written APIs
    "authentication",              // seen instead of Authorization in hand-written APIs
    "authorization",               // RFC 9110 §11.6.2
    "cf-access-client-id",         // Cloudflare Access: "Service tokens"
    "cf-access-client-secret",     // the same
    "cf-access-jwt-assertion",     // Cloudflare Access: "Validate JWTs"
    "cf-access-token",             // Cloudflare Access: sent by cloudflared
    "circle-token",                // CircleCI API v2: "Authentication"
    "client-cert",                 // RFC 9440 §2.2
    "client-cert-chain",           // RFC 9440 §2.3
    "cookie",                      // RFC 6265 §5.4
    "cookie2",                     // RFC 2965 §3.3.5
    "dd-api-key",                  // Datadog API: "Authentication"
    "dd-application-key",          // the same
    "deploy-token",                // GitLab: package registry, "Generic packages"
    "dpop",                        // RFC 9449 §4.1
    "fastly-key",                  // Fastly API: "Authentication"
    "impersonate-group",           // Kubernetes: "User impersonation"
    "impersonate-uid",             // the same
    "impersonate-user",            // the same
    "job-token",                   // GitLab: CI/CD job token
    "ocp-apim-subscription-key",   // Azure API Management: "Subscriptions"
    "private-token",               // GitLab: REST API authentication
    "proxy-authorization",         // RFC 9110 §11.7.2
    "remote-email",                // Authelia: "Trusted header SSO"
    "remote-groups",               // the same
    "remote-user",                 // the same; RFC 3875 §4.1.11 as a field
    "signature",                   // RFC 9421 §4.2
    "ssl-client-cert",             // ingress-nginx: "Client certificate authentication"
    "ssl-client-subject-dn",       // the same
    "sudo",                        // GitLab: REST API, the user that an administrator acts for
    "tailscale-user-login",        // Tailscale Serve: "Identity headers"
    "x-access-key",                // hand-written APIs; JSONBin API
    "x-access-token",              // JWT tutorials for Express and Flask
    "x-algolia-api-key",           // Algolia REST API
    "x-amz-security-token",        // AWS Signature Version 4: temporary credentials
    "x-amzn-mtls-clientcert",      // AWS Application Load Balancer: mutual TLS, passthrough
    "x-amzn-mtls-clientcert-leaf", // the same, with verification
    "x-amzn-mtls-clientcert-subject", // the same
    "x-amzn-oidc-accesstoken",     // AWS Application Load Balancer: "Authenticate users"
    "x-amzn-oidc-data",            // the same
    "x-amzn-oidc-identity",        // the same
    "x-api-key",                   // AWS API Gateway, Anthropic
    "x-api-token",                 // Pipedrive API: "Authentication"; Notifyre
    "x-apigateway-api-userinfo",   // Google API Gateway: "JWT authentication"
    "x-apikey",                    // VirusTotal API v3: "Authentication"
    "x-appwrite-jwt",              // Appwrite REST API
    "x-appwrite-key",              // the same
    "x-appwrite-session",          // the same
    "x-arr-clientcert",            // Azure App Service; ASP.NET Core: "Certificate authentication"
    "x-auth",                      // hand-written APIs
    "x-auth-email",                // Cloudflare API: "API keys"
    "x-auth-key",                  // the same
    "x-auth-request-access-token", // oauth2-proxy: --set-xauthrequest
    "x-auth-request-email",        // the same
    "x-auth-request-groups",       // the same
    "x-auth-request-user",         // the same
    "x-auth-token",                // OpenStack Keystone; Spring Session's HeaderHttpSessionIdResolver
    "x-auth-user-service-key",     // Cloudflare API: Origin CA keys
    "x-authenticated-groups",      // Kong: OpenID Connect and LDAP plugins; FortiGate: web-proxy profile
    "x-authenticated-user",        // FortiGate: web-proxy profile; gateways in front of hand-written APIs
    "x-authenticated-userid",      // Kong: OAuth 2.0 plugin
    "x-authentik-email",           // authentik: proxy provider
    "x-authentik-jwt",             // the same
    "x-authentik-uid",             // the same
    "x-authentik-username",        // the same
    "x-authorization",             // where a gateway takes Authorization for itself
    "x-client-cert",               // gateways that end TLS
    "x-client-secret",             // hand-written APIs
    "x-cmc-pro-api-key",           // CoinMarketCap API: X-CMC_PRO_API_KEY
    "x-consul-token",              // HashiCorp Consul HTTP API
    "x-consumer-custom-id",        // Kong: upstream headers of its authentication plugins
    "x-consumer-id",               // the same
    "x-consumer-username",         // the same
    "x-credential-identifier",     // Kong, and Apache APISIX: upstream headers of their authentication plugins
    "x-csrf-token",                // Rails, Laravel, Django (configured): bound to a session
    "x-emby-token",                // Emby, Jellyfin API
    "x-endpoint-api-userinfo",     // Google Cloud Endpoints: ESPv2
    "x-figma-token",               // Figma REST API
    "x-firebase-appcheck",         // Firebase App Check
    "x-forwarded-access-token",    // oauth2-proxy: --pass-access-token
    "x-forwarded-client-cert",     // Envoy: "HTTP header manipulation"
    "x-forwarded-email",           // oauth2-proxy: --pass-user-headers
    "x-forwarded-groups",          // the same
    "x-forwarded-preferred-username", // the same
    "x-forwarded-user",            // the same
    "x-functions-key",             // Azure Functions: "HTTP trigger keys"
    "x-goog-api-key",              // Google Cloud: "API keys"
    "x-goog-authenticated-user-email", // Google Identity-Aware Proxy
    "x-goog-authenticated-user-id", // the same
    "x-goog-iap-jwt-assertion",    // the same
    "x-gotify-key",                // Gotify API: "Authentication"
    "x-hasura-admin-secret",       // Hasura GraphQL Engine
    "x-hasura-role",               // Hasura GraphQL Engine: session variables
    "x-hasura-user-id",            // the same
    "x-honeycomb-team",            // Honeycomb API
    "x-id-token",                  // kong-oidc and Apache APISIX openid-connect: beside X-Userinfo
    "x-jfrog-art-api",             // JFrog Artifactory REST API
    "x-jwt-assertion",             // unconfirmed; WSO2 API Manager, of its backend JWT, should have it
    "x-master-key",                // JSONBin API
    "x-ms-client-principal",       // Azure App Service: "Work with user identities"
    "x-ms-client-principal-id",    // the same
    "x-ms-client-principal-name",  // the same
    "x-ms-token-aad-access-token", // the same
    "x-ms-token-aad-id-token",     // the same
    "x-nomad-token",               // HashiCorp Nomad HTTP API
    "x-nuget-apikey",              // NuGet server API: "Push and delete"; Gitea
    "x-parse-master-key",          // Parse Server REST API
    "x-parse-session-token",       // the same
    "x-plex-token",                // Plex Media Server
    "x-pomerium-jwt-assertion",    // Pomerium: "JWT verification"
    "x-rapidapi-key",              // RapidAPI
    "x-redmine-api-key",           // Redmine REST API
    "x-redmine-switch-user",       // Redmine REST API: "User impersonation"
    "x-remote-group",              // Kubernetes: "Authenticating proxy"
    "x-remote-user",               // the same
    "x-secret-key",                // hand-written APIs
    "x-serverless-authorization",  // Google Cloud Run
    "x-session-id",                // hand-written APIs
    "x-session-token",             // hand-written APIs
    "x-shopify-access-token",      // Shopify Admin API
    "x-shopify-storefront-access-token", // Shopify Storefront API
    "x-ssl-client-cert",           // customary in configurations of nginx and HAProxy
    "x-token",                     // FastAPI's tutorial
    "x-typesense-api-key",         // Typesense API: "Authentication"
    "x-user-id",                   // Rocket.Chat REST API, beside X-Auth-Token
    "x-user-token",                // simple_token_authentication (Rails), beside X-User-Email; Pixela API
    "x-userinfo",                  // the same: userinfo_header_name
    "x-vault-token",               // HashiCorp Vault HTTP API
    "x-webauth-user",              // Grafana: "Auth proxy" (its default)
    "x-xsrf-token",                // Angular, axios: bound to a session
    "x-zumo-auth",                 // Azure App Service: Mobile Apps
];

/// Prefix of further such fields (Kubernetes, "User impersonation").
const CREDENTIAL_PREFIX: &str = "impersonate-extra-";

/// Those that prove that a page of this site sent the request, but not who sent it: browsers send them with reads,
/// beside the cookie that identifies the caller. Never in a key verbatim, but no identity. Sorted.
static BESIDE_A_COOKIE: [&str; 2] = ["x-csrf-token", "x-xsrf-token"];

const BUILT_IN: NameShapes = {
    let mut shapes = NameShapes::new();
    let mut at = 0;
    while at < CREDENTIALS.len() {
        shapes = shapes.and(CREDENTIALS[at]);
        at += 1;
    }
    shapes
};

/// The fields that count as credentials: the table, and `[server] credential_headers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    shapes: NameShapes,
    further: Vec<HeaderName>,
}

impl Default for Credentials {
    fn default() -> Credentials {
        Credentials::and(Vec::new())
    }
}

impl Credentials {
    /// The table and these fields.
    pub fn and(further: Vec<HeaderName>) -> Credentials {
        let shapes = further.iter().fold(BUILT_IN, |shapes, name| shapes.and(name.as_str()));
        Credentials { shapes, further }
    }

    /// Names with `_` must be converted to `-` first.
    fn have(&self, name: &HeaderName) -> bool {
        let may_have = self.shapes.may_have(name.as_str()) || has_prefix(name);
        may_have && (is_in_table(name) || self.further.contains(name))
    }

    /// Whether a field identifies the caller.
    pub fn tell_callers(&self, name: &HeaderName) -> bool {
        self.have(name) && (BESIDE_A_COOKIE.binary_search(&name.as_str()).is_err() || self.further.contains(name))
    }

    /// The fields of a request that identify the caller.
    pub fn of<'f>(&self, fields: &'f HeaderMap) -> impl Iterator<Item = &'f HeaderName> {
        fields.keys().filter(|name| self.tell_callers(name))
    }

    /// The fields of a request that identify the caller, with their values. `beside`: fields that families identify callers by.
    pub fn select(&self, fields: &HeaderMap, beside: &[HeaderName]) -> HeaderMap {
        let is_meant = |name: &HeaderName| self.tell_callers(name) || beside.contains(name);
        let lines = fields.iter().filter(|(name, _)| is_meant(name));
        let mut selected = HeaderMap::new();
        lines.for_each(|(name, value)| {
            selected.append(name, value.clone());
        });
        selected
    }

    /// The fields outside of the table.
    pub fn further(&self) -> &[HeaderName] {
        &self.further
    }
}

/// Whether a field is in the table.
pub(crate) fn is_in_table(name: &HeaderName) -> bool {
    CREDENTIALS.binary_search(&name.as_str()).is_ok() || has_prefix(name)
}

fn has_prefix(name: &HeaderName) -> bool {
    name.as_str().starts_with(CREDENTIAL_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::fields;

    #[test]
    fn tables_are_sorted() {
        assert!(CREDENTIALS.is_sorted() && BESIDE_A_COOKIE.is_sorted());
        assert!(BESIDE_A_COOKIE.iter().all(|name| CREDENTIALS.contains(name)));
    }

    #[test]
    fn the_filter_rejects_no_credential_field() {
        let further = HeaderName::from_static("acme-caller");
        let all = Credentials::and(vec![further.clone()]);
        for name in CREDENTIALS.iter().map(|name| HeaderName::from_static(name)).chain([further.clone()]) {
            assert!(all.have(&name), "{name}");
        }
        assert!(!Credentials::default().have(&further));
        let usual = [
            "accept",
            "accept-encoding",
            "accept-language",
            "cache-control",
            "connection",
            "content-type",
            "host",
            "origin",
            "priority",
            "referer",
            "sec-fetch-mode",
            "upgrade-insecure-requests",
            "user-agent",
            "via",
            "x-requested-with",
        ];
        for name in usual {
            let name = HeaderName::from_static(name);
            assert!(!all.have(&name), "{name}");
            assert!(
                !all.shapes.may_have(name.as_str()) || name.as_str().starts_with('x'),
                "{name} costs a search"
            );
        }
    }

    #[test]
    fn a_field_that_chooses_the_user_beside_a_credential_is_one() {
        let all = Credentials::default();
        let chosen = [
            "sudo",
            "impersonate-user",
            "impersonate-group",
            "impersonate-uid",
            "impersonate-extra-scopes",
            "impersonate-extra-acme.com%2fproject",
            "api-username",
            "x-redmine-switch-user",
            "x-hasura-role",
            "x-hasura-user-id",
            "x-webauth-user",
            "x-user-id",
        ];
        for name in chosen {
            let name = HeaderName::from_static(name);
            assert!(all.tell_callers(&name) && is_in_table(&name), "{name}");
        }
        assert!(!all.have(&HeaderName::from_static("impersonate-other")));
    }

    #[test]
    fn a_csrf_token_does_not_identify_the_caller() {
        let request = fields(&[("accept", "*/*"), ("x-api-key", "1"), ("x-xsrf-token", "1")]);
        let found = |all: Credentials| all.of(&request).count();
        assert_eq!(
            (found(Credentials::default()), found(Credentials::and(vec!["x-xsrf-token".parse().unwrap()]))),
            (1, 2)
        );
        assert!(Credentials::default().have(&HeaderName::from_static("x-xsrf-token")));
    }
}
