//! `adaptive_ttl`: a family's ttl, multiplied by how often the URL is requested.

use std::fmt;
use std::time::Duration;

/// How often a URL was requested of this proxy in the last hour, with the request at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRate {
    /// Requests in an hour.
    pub per_hour: u32,
    /// Whether requests have been counted for an hour. Before that a low number shows nothing.
    pub is_whole_hour: bool,
}

/// The factors of a family's ttl.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveTtl {
    /// For URLs with more requests.
    pub hot: Option<TtlFactor>,
    /// For URLs with fewer.
    pub cold: Option<TtlFactor>,
}

/// A factor, and from which rate on it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlFactor {
    /// In hundredths: 200 is twice the ttl.
    pub hundredths: u32,
    /// Requests in an hour.
    pub per_hour: u32,
}

impl Default for AdaptiveTtl {
    /// `adaptive_ttl = true`: `{ hot = "2x over 1000/h", cold = "0.5x under 10/h" }`.
    fn default() -> AdaptiveTtl {
        AdaptiveTtl {
            hot: Some(TtlFactor { hundredths: 200, per_hour: 1000 }),
            cold: Some(TtlFactor { hundredths: 50, per_hour: 10 }),
        }
    }
}

impl AdaptiveTtl {
    /// The ttl of a response to a URL with this rate: whole seconds, at least one.
    pub fn adapted(&self, ttl: Duration, rate: RequestRate) -> Duration {
        let hot = self.hot.filter(|hot| rate.per_hour > hot.per_hour);
        let cold = self.cold.filter(|cold| rate.is_whole_hour && rate.per_hour < cold.per_hour);
        match hot.or(cold) {
            Some(TtlFactor { hundredths, .. }) => {
                let seconds = ttl.as_secs().saturating_mul(hundredths.into()) / 100;
                Duration::from_secs(seconds.max(1))
            }
            None => ttl,
        }
    }
}

impl TtlFactor {
    fn factor(self) -> String {
        let (whole, rest) = (self.hundredths / 100, self.hundredths % 100);
        if rest == 0 { format!("{whole}x") } else { format!("{whole}.{rest:02}x").replace("0x", "x") }
    }
}

/// `hot 2x over 1000/h, cold 0.5x under 10/h`.
impl fmt::Display for AdaptiveTtl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hot = self.hot.map(|hot| format!("hot {} over {}/h", hot.factor(), hot.per_hour));
        let cold = self.cold.map(|cold| format!("cold {} under {}/h", cold.factor(), cold.per_hour));
        let parts: Vec<String> = hot.into_iter().chain(cold).collect();
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_grows_for_hot_urls_and_shrinks_for_cold_ones() {
        let usual = AdaptiveTtl::default();
        let hot_alone = AdaptiveTtl { cold: None, ..usual };
        let rows = [
            (usual, 1001, true, 200),
            (usual, 1001, false, 200),
            (usual, 1000, true, 100),
            (usual, 10, true, 100),
            (usual, 9, true, 50),
            // Nothing is known to be cold before requests were counted for an hour.
            (usual, 9, false, 100),
            (hot_alone, 1, true, 100),
        ];
        for (adaptive, per_hour, is_whole_hour, expected) in rows {
            let adapted = adaptive.adapted(Duration::from_secs(100), RequestRate { per_hour, is_whole_hour });
            assert_eq!(adapted, Duration::from_secs(expected), "{per_hour}/h, whole hour: {is_whole_hour}");
        }
        let cold = RequestRate { per_hour: 1, is_whole_hour: true };
        assert_eq!(usual.adapted(Duration::from_secs(1), cold), Duration::from_secs(1), "at least a second");
    }

    #[test]
    fn factors_print_as_they_are_written() {
        assert_eq!(AdaptiveTtl::default().to_string(), "hot 2x over 1000/h, cold 0.5x under 10/h");
        let factor = |hundredths| TtlFactor { hundredths, per_hour: 5 }.factor();
        assert_eq!([1000, 125, 110, 10].map(factor), ["10x", "1.25x", "1.1x", "0.1x"]);
    }
}
