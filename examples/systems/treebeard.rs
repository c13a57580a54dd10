//! TreeBeard: a catalog of energy plans, and what is recommended to users.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Value, json};

use super::api::{Answer, Api, Call};

/// Plans, users, and how slow the database is.
#[derive(Debug)]
pub struct TreeBeard {
    plans: BTreeMap<u64, Value>,
    preferences: BTreeMap<u64, Value>,
    /// How often recommendations were worked out.
    recommended: u64,
    /// What every read takes, milliseconds.
    slowness: u64,
}

impl TreeBeard {
    /// Two hundred plans in two regions.
    pub fn new() -> TreeBeard {
        let plan = |id: u64| {
            let region = if id.is_multiple_of(2) { "TX" } else { "CA" };
            (id, json!({ "id": id, "name": format!("Plan {id}"), "region": region, "cents": 10 + id % 7 }))
        };
        TreeBeard {
            plans: (1..=200).map(plan).collect(),
            preferences: BTreeMap::new(),
            recommended: 0,
            slowness: 10,
        }
    }

    fn plan(&self, id: &str) -> Answer {
        let plan = id.parse().ok().and_then(|id: u64| self.plans.get(&id));
        plan.map_or_else(Answer::not_found, |plan| {
            let region = plan["region"].as_str().unwrap_or("");
            Answer::ok(plan.clone()).with("cache-tag", format!("plan, region:{region}"))
        })
    }

    fn list(&self) -> Answer {
        let plans: Vec<&Value> = self.plans.values().collect();
        Answer::ok(json!({ "plans": plans })).with("cache-tag", "plan, region:TX, region:CA")
    }

    fn set_plan(&mut self, id: u64, content: &Value) -> Answer {
        let Some(plan) = self.plans.get_mut(&id) else { return Answer::not_found() };
        for (name, value) in content.as_object().into_iter().flatten() {
            plan[name] = value.clone();
        }
        Answer::ok(plan.clone())
    }

    fn read(&mut self, path: &[&str], call: &Call) -> Answer {
        match path {
            ["plans"] => self.list(),
            ["plans", id] => self.plan(id),
            ["users", id, "profile"] => Answer::ok(json!({ "id": id })),
            ["users", id, "preferences"] => {
                let id: u64 = id.parse().unwrap_or(0);
                Answer::ok(self.preferences.get(&id).cloned().unwrap_or(json!({})))
            }
            ["users", id, "recommendations"] => {
                self.recommended += 1;
                Answer::ok(json!({ "user": id, "plans": [1, 2], "worked_out": self.recommended }))
            }
            ["users", id, "usage"] => {
                Answer::ok(json!({ "user": id, "month": call.parameter("month"), "kwh": 310 }))
            }
            ["search"] => Answer::ok(json!({ "q": call.parameter("q"), "found": self.plans.len() })),
            _ => Answer::not_found(),
        }
    }
}

impl Api for TreeBeard {
    fn answer(&mut self, call: &Call) -> Answer {
        let (method, path) = call.route();
        match (method, &path[..]) {
            ("GET", path) => self.read(path, call).after(self.slowness),
            ("POST", ["plans"]) => {
                let id = self.plans.len() as u64 + 1;
                self.plans.insert(id, json!({ "id": id, "region": "TX" }));
                let created = self.set_plan(id, &call.content);
                Answer { status: StatusCode::CREATED, ..created }
            }
            ("PUT", ["plans", id]) => self.set_plan(id.parse().unwrap_or(0), &call.content),
            // A change of tariffs in a region names the tag of all its plans.
            ("POST", ["regions", region, "tariffs"]) => {
                for plan in self.plans.values_mut().filter(|plan| plan["region"] == **region) {
                    plan["cents"] = call.content["cents"].clone();
                }
                Answer::ok(json!({ "success": true }))
                    .with("cache-group-invalidation", format!("\"region:{region}\""))
            }
            ("PUT", ["users", id, "preferences"]) => {
                self.preferences.insert(id.parse().unwrap_or(0), call.content.clone());
                Answer::ok(call.content.clone())
            }
            // For trying what a slow database does: {"milliseconds": 2000}
            ("POST", ["slowness"]) => {
                self.slowness = call.content["milliseconds"].as_u64().unwrap_or(0);
                Answer::ok(json!({ "success": true }))
            }
            _ => Answer::not_found(),
        }
    }
}
