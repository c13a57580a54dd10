//! The sample hotel: guests' accounts with points and permissions, in memory, and HITA's routes on them. Decisions
//! only; [`crate::api`] puts it on a socket.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

/// What the dashboard's queries take.
const DASHBOARD_TIME: Duration = Duration::from_millis(1500);
/// Users on a page of the list unless the request says otherwise.
const PAGE: usize = 20;

/// All users, and how many writes there have been.
#[derive(Debug)]
pub struct Hotel {
    users: BTreeMap<u64, User>,
    next_id: u64,
    version: u64,
}

/// A user's account.
#[derive(Debug, Clone, Serialize)]
pub struct User {
    id: u64,
    name: String,
    email: String,
    active: bool,
    points: i64,
    permissions: Vec<String>,
}

/// Who asks, as their bearer token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Sees names and points.
    Clerk,
    /// Sees e-mail addresses and permissions as well.
    Manager,
    /// May use the superadmin's routes.
    Superadmin,
}

impl Caller {
    /// The caller behind an `Authorization` value. A sample needs no better tokens than names.
    pub fn of(authorization: &str) -> Option<Caller> {
        match authorization.strip_prefix("Bearer ")? {
            "clerk" => Some(Caller::Clerk),
            "manager" => Some(Caller::Manager),
            "superadmin" => Some(Caller::Superadmin),
            _ => None,
        }
    }
}

/// What the hotel says to a request.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
    /// How long the sample pretends to work on it.
    pub work: Duration,
}

impl Answer {
    fn ok(body: Value) -> Answer {
        Answer { status: StatusCode::OK, body, work: Duration::ZERO }
    }

    /// An answer that says what is wrong.
    pub fn refusal(status: StatusCode, error: &str) -> Answer {
        Answer { status, body: json!({ "success": false, "error": error }), work: Duration::ZERO }
    }

    fn not_found() -> Answer {
        Answer::refusal(StatusCode::NOT_FOUND, "no such user or route")
    }

    fn unprocessable(what: &str) -> Answer {
        Answer::refusal(StatusCode::UNPROCESSABLE_ENTITY, &format!("the body must be JSON with {what}"))
    }
}

impl Hotel {
    /// A hotel with four users.
    pub fn new() -> Hotel {
        let mut hotel = Hotel { users: BTreeMap::new(), next_id: 1, version: 0 };
        for (name, points) in [("Ada", 1200), ("Grace", 800), ("Edsger", 350), ("Barbara", 0)] {
            let id = hotel.add(name, &format!("{}@hotel.example", name.to_lowercase()));
            hotel.users.entry(id).and_modify(|user| user.points = points);
        }
        hotel
    }

    /// Writes so far.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Answers one request. `path` is without the query.
    pub fn answer(&mut self, caller: Caller, method: &Method, path: &str, query: &str, body: &[u8]) -> Answer {
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let Some(("v1.0", route)) = segments.split_first().map(|(first, rest)| (*first, rest)) else {
            return Answer::not_found();
        };
        if *method == Method::GET || *method == Method::HEAD {
            return self.read(caller, route, query);
        }
        let answer = self.write(method, route, &serde_json::from_slice(body).unwrap_or(Value::Null));
        if answer.status.is_success() {
            self.version += 1;
        }
        answer
    }

    fn read(&self, caller: Caller, route: &[&str], query: &str) -> Answer {
        match route {
            // Callers without a token do not get here.
            ["auth", "check"] => Answer::ok(json!({})),
            ["users"] => self.list(caller, query),
            ["user", "stats"] => Answer::ok(self.stats()),
            ["user", "details", id] => self.find(id).map_or_else(Answer::not_found, |user| details(caller, user)),
            ["dashboard", "stats"] => Answer { work: DASHBOARD_TIME, ..Answer::ok(self.dashboard()) },
            ["superadmin", "users"] if caller == Caller::Superadmin => Answer::ok(json!({ "users": self.users })),
            ["superadmin", ..] => Answer::refusal(StatusCode::FORBIDDEN, "superadmin only"),
            _ => Answer::not_found(),
        }
    }

    fn write(&mut self, method: &Method, route: &[&str], body: &Value) -> Answer {
        match (method.as_str(), route) {
            ("POST", ["user", "create"]) => self.create(body),
            ("PUT" | "PATCH", ["user", "update", id]) => self.change(id, |user| user.update(body)),
            ("DELETE", ["user", "delete", id]) => self.delete(id),
            ("POST", ["user", id, "activate"]) => self.change(id, |user| user.activate(body)),
            ("POST", ["points", "add"]) => self.add_points(body),
            ("PUT", ["permissions", id]) => self.change(id, |user| user.permit(body)),
            _ => Answer::not_found(),
        }
    }

    fn list(&self, caller: Caller, query: &str) -> Answer {
        let number = |name: &str, default: usize| parameter(query, name).unwrap_or(default).max(1);
        let (page, limit) = (number("page", 1), number("limit", PAGE));
        let users = self.users.values().skip((page - 1).saturating_mul(limit)).take(limit);
        let shown: Vec<Value> = users.map(|user| user.shown_to(caller)).collect();
        Answer::ok(json!({ "page": page, "total": self.users.len(), "users": shown }))
    }

    fn stats(&self) -> Value {
        let active = self.users.values().filter(|user| user.active).count();
        json!({ "total": self.users.len(), "active": active, "points": self.points() })
    }

    fn dashboard(&self) -> Value {
        let best = self.users.values().max_by_key(|user| user.points).map(|user| &user.name);
        json!({ "users": self.users.len(), "points": self.points(), "most_points": best })
    }

    fn points(&self) -> i64 {
        self.users.values().fold(0, |sum, user| sum.saturating_add(user.points))
    }

    fn find(&self, id: &str) -> Option<&User> {
        self.users.get(&id.parse().ok()?)
    }

    fn add(&mut self, name: &str, email: &str) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let user = User {
            id,
            name: name.to_owned(),
            email: email.to_owned(),
            active: true,
            points: 0,
            permissions: vec!["book".to_owned()],
        };
        self.users.insert(id, user);
        id
    }

    fn create(&mut self, body: &Value) -> Answer {
        let (Some(name), Some(email)) = (body["name"].as_str(), body["email"].as_str()) else {
            return Answer::unprocessable(r#""name" and "email""#);
        };
        let id = self.add(name, email);
        Answer { status: StatusCode::CREATED, ..Answer::ok(json!({ "id": id })) }
    }

    fn delete(&mut self, id: &str) -> Answer {
        match id.parse().ok().and_then(|id: u64| self.users.remove(&id)) {
            Some(user) => Answer::ok(json!({ "deleted": user.id })),
            None => Answer::not_found(),
        }
    }

    fn add_points(&mut self, body: &Value) -> Answer {
        let (Some(id), Some(points)) = (body["user_id"].as_u64(), body["points"].as_i64()) else {
            return Answer::unprocessable(r#"numbers "user_id" and "points""#);
        };
        self.change(&id.to_string(), |user| {
            user.points = user.points.saturating_add(points);
            Ok(())
        })
    }

    /// Changes one user, or says what the body lacks.
    fn change(&mut self, id: &str, apply: impl FnOnce(&mut User) -> Result<(), &'static str>) -> Answer {
        let Some(user) = id.parse().ok().and_then(|id: u64| self.users.get_mut(&id)) else {
            return Answer::not_found();
        };
        match apply(user) {
            Ok(()) => Answer::ok(json!({ "user": user })),
            Err(lacking) => Answer::unprocessable(lacking),
        }
    }
}

impl User {
    fn shown_to(&self, caller: Caller) -> Value {
        match caller {
            Caller::Clerk => json!({ "id": self.id, "name": self.name, "points": self.points }),
            Caller::Manager | Caller::Superadmin => json!(self),
        }
    }

    fn update(&mut self, body: &Value) -> Result<(), &'static str> {
        let (name, email) = (body["name"].as_str(), body["email"].as_str());
        if name.is_none() && email.is_none() {
            return Err(r#""name" or "email""#);
        }
        self.name = name.map_or_else(|| self.name.clone(), str::to_owned);
        self.email = email.map_or_else(|| self.email.clone(), str::to_owned);
        Ok(())
    }

    fn activate(&mut self, body: &Value) -> Result<(), &'static str> {
        self.active = match &body["active"] {
            // The route's name says enough: a body is needed only to deactivate.
            Value::Null => true,
            Value::Bool(active) => *active,
            _ => return Err(r#"a boolean "active""#),
        };
        Ok(())
    }

    fn permit(&mut self, body: &Value) -> Result<(), &'static str> {
        let lacking = r#"a list of strings "permissions""#;
        let items = body["permissions"].as_array().ok_or(lacking)?;
        let names: Option<Vec<String>> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
        self.permissions = names.ok_or(lacking)?;
        Ok(())
    }
}

fn details(caller: Caller, user: &User) -> Answer {
    Answer::ok(json!({ "user": user.shown_to(caller) }))
}

fn parameter(query: &str, name: &str) -> Option<usize> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(hotel: &mut Hotel, caller: Caller, path: &str, query: &str) -> Answer {
        hotel.answer(caller, &Method::GET, path, query, b"")
    }

    fn send(hotel: &mut Hotel, method: &Method, path: &str, body: &str) -> StatusCode {
        hotel.answer(Caller::Manager, method, path, "", body.as_bytes()).status
    }

    #[test]
    fn every_write_is_seen_by_the_reads_that_show_it() {
        let rows = [
            (Method::POST, "/v1.0/user/create", r#"{"name":"Kay","email":"k@h"}"#, "/v1.0/users"),
            (Method::PUT, "/v1.0/user/update/1", r#"{"name":"Augusta"}"#, "/v1.0/user/details/1"),
            (Method::DELETE, "/v1.0/user/delete/2", "", "/v1.0/user/stats"),
            (Method::POST, "/v1.0/user/1/activate", r#"{"active":false}"#, "/v1.0/user/stats"),
            (Method::POST, "/v1.0/points/add", r#"{"user_id":1,"points":5}"#, "/v1.0/dashboard/stats"),
            (Method::PUT, "/v1.0/permissions/1", r#"{"permissions":["refund"]}"#, "/v1.0/user/details/1"),
        ];
        for (method, path, body, shown) in rows {
            let mut hotel = Hotel::new();
            let before = get(&mut hotel, Caller::Manager, shown, "");
            assert_eq!(before.status, StatusCode::OK, "{shown}");
            assert!(send(&mut hotel, &method, path, body).is_success(), "{method} {path}");
            assert_eq!(hotel.version(), 1, "{method} {path}");
            assert_ne!(get(&mut hotel, Caller::Manager, shown, ""), before, "{method} {path}");
        }
    }

    #[test]
    fn a_refused_write_changes_nothing() {
        let rows = [
            (Method::POST, "/v1.0/user/create", "not json", 422),
            (Method::PUT, "/v1.0/user/update/1", "{}", 422),
            (Method::POST, "/v1.0/user/1/activate", r#"{"active":"no"}"#, 422),
            (Method::POST, "/v1.0/points/add", r#"{"user_id":1}"#, 422),
            (Method::POST, "/v1.0/points/add", r#"{"user_id":99,"points":1}"#, 404),
            (Method::PUT, "/v1.0/permissions/1", r#"{"permissions":[7]}"#, 422),
            (Method::DELETE, "/v1.0/user/delete/99", "", 404),
            (Method::POST, "/v1.0/users", "{}", 404),
            (Method::POST, "/v2.0/user/create", r#"{"name":"Kay","email":"k@h"}"#, 404),
        ];
        let mut hotel = Hotel::new();
        let before = get(&mut hotel, Caller::Superadmin, "/v1.0/superadmin/users", "");
        for (method, path, body, status) in rows {
            assert_eq!(send(&mut hotel, &method, path, body).as_u16(), status, "{method} {path} {body}");
        }
        assert_eq!(hotel.version(), 0);
        assert_eq!(get(&mut hotel, Caller::Superadmin, "/v1.0/superadmin/users", ""), before);
    }

    #[test]
    fn callers_see_what_is_theirs_to_see() {
        let mut hotel = Hotel::new();
        let user = |hotel: &mut Hotel, caller| get(hotel, caller, "/v1.0/user/details/1", "").body["user"].clone();
        assert_eq!(user(&mut hotel, Caller::Clerk)["email"], Value::Null);
        assert_eq!(user(&mut hotel, Caller::Manager)["email"], "ada@hotel.example");
        let status = |hotel: &mut Hotel, caller| get(hotel, caller, "/v1.0/superadmin/users", "").status;
        assert_eq!(status(&mut hotel, Caller::Manager), StatusCode::FORBIDDEN);
        assert_eq!(status(&mut hotel, Caller::Superadmin), StatusCode::OK);
        assert_eq!(Caller::of("Bearer clerk"), Some(Caller::Clerk));
        assert_eq!(Caller::of("Bearer nobody"), None);
        assert_eq!(Caller::of("clerk"), None);
    }

    #[test]
    fn the_list_has_pages() {
        let mut hotel = Hotel::new();
        let mut names = |query: &str| {
            let users = get(&mut hotel, Caller::Clerk, "/v1.0/users", query).body["users"].clone();
            users
                .as_array()
                .unwrap()
                .iter()
                .map(|user| user["name"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names("").len(), 4);
        assert_eq!(names("page=2&limit=3"), ["Barbara"]);
        assert_eq!(names("limit=2&page=0"), ["Ada", "Grace"]);
        assert!(names("page=9").is_empty());
        assert!(names(&format!("page={}&limit={}", usize::MAX, usize::MAX)).is_empty());
    }

    #[test]
    fn only_the_dashboard_is_slow() {
        let mut hotel = Hotel::new();
        assert_eq!(get(&mut hotel, Caller::Manager, "/v1.0/dashboard/stats", "").work, DASHBOARD_TIME);
        assert_eq!(get(&mut hotel, Caller::Manager, "/v1.0/user/stats", "").work, Duration::ZERO);
    }
}
