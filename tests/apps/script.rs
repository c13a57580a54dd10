//! One script of requests, sent by a real client to an application alone and to Larder in front of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use crate::packages::{command, root};
use crate::recipe::Recipe;

/// One answer, as the client prints it.
#[derive(Deserialize)]
struct Answer {
    step: String,
    status: u16,
    /// The fields that are compared.
    #[serde(default)]
    fields: BTreeMap<String, Option<String>>,
    body: String,
    /// `Cache-Status`, which is not compared.
    #[serde(default)]
    cache: Option<String>,
    /// What it must contain.
    #[serde(default)]
    is: Option<String>,
}

/// Runs one of `tests/apps/clients` against the application alone, then against a new one behind Larder: every answer must
/// be the same, and come from the cache where the script says so.
#[track_caller]
pub fn same_with_and_without_larder(recipe: Recipe, client: &str) {
    let alone = recipe.alone();
    let expected = run(client, &alone.url);
    drop(alone);
    let served = recipe.behind_larder();
    let answers = run(client, &served.url());
    for (at, (expected, answer)) in expected.iter().zip(&answers).enumerate() {
        let number = at + 1;
        assert_eq!(answer.to_string(), expected.to_string(), "answer {number}; Cache-Status: {:?}", answer.cache);
        let cache = answer.cache.as_deref().unwrap_or_default();
        let is = answer.is.as_deref().unwrap_or_default();
        assert!(cache.contains(is), "answer {number} is not {is:?} but {cache:?}: {answer}");
    }
    assert_eq!(answers.len(), expected.len());
    assert!(answers.iter().any(|answer| answer.cache.as_deref().is_some_and(|cache| cache.contains("; hit"))));
}

#[track_caller]
fn run(client: &str, url: &str) -> Vec<Answer> {
    let program = if client.ends_with(".py") { "python" } else { "node" };
    let script = root().join("tests/apps/clients").join(client);
    let output = command(program).arg(script).arg(url).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{client} {url}: {}\n{stdout}{stderr}", output.status);
    stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.step, self.status)?;
        for (name, value) in &self.fields {
            write!(f, "\n  {name}: {value:?}")?;
        }
        write!(f, "\n  {}", self.body)
    }
}
