//! The request directives (RFC 9111 §5.2.1) that a family allows.
//!
//! Of a request's directives those count that cost upstream nothing, unless a family lets its clients ask for more: all are
//! advisory (RFC 9111 §5.2.1), and an API's users should not be able to force misses.

use std::time::Duration;

use http::HeaderMap;
use http::header::CACHE_CONTROL;

use super::ClientDirectives;
use super::cache_control::RequestDirectives;

/// The demands of a request, in a form that a hit can compare. Whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demands {
    /// `no-store` (§5.2.1.5): nothing of this exchange is stored.
    pub no_store: bool,
    /// `only-if-cached` (§5.2.1.7): 504 instead of a fetch.
    pub only_if_cached: bool,
    /// `no-cache` (§5.2.1.4, §5.4): a stored response is validated first.
    pub validated: bool,
    /// `max-age` (§5.2.1.1): the greatest age.
    pub max_age: Option<Duration>,
    /// `min-fresh` (§5.2.1.3): the least remaining freshness.
    pub min_fresh: Option<Duration>,
    /// `max-stale` (§5.2.1.2): the greatest staleness; [`Duration::MAX`] for any.
    pub max_stale: Option<Duration>,
    /// `stale-if-error` (RFC 5861 §4): the greatest staleness after a failed fetch.
    pub stale_if_error: Option<Duration>,
}

impl Demands {
    /// Reads the request's fields.
    pub fn of(request: &HeaderMap, counted: ClientDirectives) -> Demands {
        // `Pragma` can only cause fetches.
        let says_nothing = counted == ClientDirectives::Harmless && !request.contains_key(CACHE_CONTROL);
        if counted == ClientDirectives::None || says_nothing {
            return Demands::default();
        }
        let directives = RequestDirectives::parse(request);
        let harmless = Demands {
            no_store: directives.no_store,
            only_if_cached: directives.only_if_cached,
            max_stale: directives.max_stale.map(|limit| limit.map_or(Duration::MAX, Duration::from_secs)),
            stale_if_error: directives.stale_if_error.map(Duration::from_secs),
            ..Demands::default()
        };
        match counted {
            ClientDirectives::All => Demands {
                validated: directives.no_cache,
                max_age: directives.max_age.map(Duration::from_secs),
                min_fresh: directives.min_fresh.map(Duration::from_secs),
                ..harmless
            },
            ClientDirectives::Harmless | ClientDirectives::None => harmless,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::fields;

    #[test]
    fn a_family_selects_the_directives_that_apply() {
        let request = fields(&[(
            "cache-control",
            "no-cache, no-store, only-if-cached, max-age=1, min-fresh=2, max-stale=3, stale-if-error=4",
        )]);
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let all = Demands {
            no_store: true,
            only_if_cached: true,
            validated: true,
            max_age: seconds(1),
            min_fresh: seconds(2),
            max_stale: seconds(3),
            stale_if_error: seconds(4),
        };
        assert_eq!(Demands::of(&request, ClientDirectives::All), all);
        let harmless = Demands { validated: false, max_age: None, min_fresh: None, ..all };
        assert_eq!(Demands::of(&request, ClientDirectives::Harmless), harmless);
        assert_eq!(Demands::of(&request, ClientDirectives::None), Demands::default());
    }

    #[test]
    fn max_stale_without_a_number_accepts_any_staleness() {
        let request = fields(&[("cache-control", "max-stale")]);
        assert_eq!(Demands::of(&request, ClientDirectives::Harmless).max_stale, Some(Duration::MAX));
    }

    #[test]
    fn pragma_counts_where_there_is_no_cache_control() {
        let validated = |lines| Demands::of(&fields(lines), ClientDirectives::All).validated;
        assert!(validated(&[("pragma", "no-cache")]));
        assert!(!validated(&[("pragma", "no-cache"), ("cache-control", "max-age=60")]));
    }
}
