//! `larder check --ask` requests the paths of families from upstream and compares its freshness with the rules. Only
//! families with a single, fixed path can be requested.

use http::{HeaderMap, Method, Uri};

use crate::cli::output;
use crate::config::Config;
use crate::config::lint::overridden_ttl;
use crate::metrics::Metrics;
use crate::proxy::explain::Explainer;
use crate::rules::{Family, Warning};
use crate::running::Running;
use crate::upstream::Upstream;

/// Returns a warning for each family whose `ttl` upstream's response overrides, or whose request failed.
///
/// # Errors
///
/// No upstream is configured.
pub(super) fn ask(config: Config) -> Result<Vec<Warning>, String> {
    let Some(url) = config.server.upstream.clone() else {
        return Err("no upstream: set --upstream http://HOST:PORT or [server] upstream".to_owned());
    };
    let upstream = Upstream::new(&url, &config.server).map_err(|fault| fault.to_string())?;
    let running = Running::new(config, upstream, None, std::sync::Arc::new(Metrics::new()));
    let runtime = output::runtime()?;
    let live = running.live();
    let paths = live.rules.stated().iter().filter_map(|family| Some((family, askable(family)?)));
    Ok(paths.filter_map(|(family, path)| runtime.block_on(ask_for(&running, family, path))).collect())
}

/// The fixed path of a family whose ttl upstream may override.
fn askable(family: &Family) -> Option<Uri> {
    family.may_be_overridden().then(|| family.only_path())??.parse().ok()
}

async fn ask_for(running: &Running, family: &Family, path: Uri) -> Option<Warning> {
    let (target, fields) = Explainer::target(&running.config, &path, HeaderMap::new()).ok()?;
    let explainer = Explainer::of(&running.config, running.live(), Method::GET, target, fields);
    match explainer.ask(running).await {
        Ok(answer) if answer.status.is_success() => {
            overridden_ttl(family, path.path(), &answer.fields, answer.times.1)
        }
        Ok(_) => None,
        Err(error) => Some(Warning {
            line: family.line,
            message: format!("family {:?}: the request for {path} failed: {error}", family.name),
            remedy: "look whether the API runs, or leave --ask out".to_owned(),
        }),
    }
}
