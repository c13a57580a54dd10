//! MyHibachi: bookings, the slots that are left, and what the dashboard says of them.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use serde_json::{Value, json};

use super::api::{Answer, Api, Call};

const SLOTS: [&str; 4] = ["12:00", "15:00", "18:00", "21:00"];

#[derive(Debug, Clone)]
struct Booking {
    date: String,
    slot: String,
    user_id: u64,
    station_id: u64,
    status: &'static str,
}

/// Everything that is booked, with users and settings.
#[derive(Debug)]
pub struct MyHibachi {
    bookings: BTreeMap<u64, Booking>,
    profiles: BTreeMap<u64, Value>,
    settings: BTreeMap<String, Value>,
    /// Tokens of the staff who are logged in.
    staff: BTreeSet<String>,
}

impl MyHibachi {
    /// Two users, two staff, no bookings.
    pub fn new() -> MyHibachi {
        MyHibachi {
            bookings: BTreeMap::new(),
            profiles: [(1, json!({ "name": "Aiko" })), (2, json!({ "name": "Ben" }))].into(),
            settings: [("currency".to_owned(), json!("USD"))].into(),
            staff: ["ann", "bob"].map(str::to_owned).into(),
        }
    }

    fn is_staff(&self, call: &Call) -> bool {
        call.token.as_ref().is_some_and(|token| self.staff.contains(token))
    }

    fn stats(&self, station: Option<u64>) -> Answer {
        let counted = self.bookings.values().filter(|booking| station.is_none_or(|id| booking.station_id == id));
        let confirmed = counted.clone().filter(|booking| booking.status == "CONFIRMED").count();
        // Aggregations take their time.
        Answer::ok(json!({ "total_bookings": counted.count(), "confirmed_bookings": confirmed })).after(50)
    }

    fn slots(&self, date: &str) -> Answer {
        let is_taken = |slot: &&str| {
            self.bookings.values().any(|it| it.date == date && it.slot == **slot && it.status != "CANCELLED")
        };
        let free: Vec<&str> = SLOTS.into_iter().filter(|slot| !is_taken(slot)).collect();
        Answer::ok(json!({ "date": date, "slots": free })).after(10)
    }

    fn book(&mut self, content: &Value) -> Answer {
        let (Some(date), Some(slot)) = (content["date"].as_str(), content["slot"].as_str()) else {
            return Answer::error(StatusCode::UNPROCESSABLE_ENTITY, "date and slot are needed");
        };
        let id = self.bookings.len() as u64 + 1;
        let number = |name: &str| content[name].as_u64().unwrap_or(1);
        let (date, slot) = (date.to_owned(), slot.to_owned());
        let booking = Booking {
            date,
            slot,
            user_id: number("user_id"),
            station_id: number("station_id"),
            status: "PENDING",
        };
        self.bookings.insert(id, booking);
        Answer { status: StatusCode::CREATED, ..self.booking(id) }
    }

    fn booking(&self, id: u64) -> Answer {
        self.bookings.get(&id).map_or_else(Answer::not_found, |it| {
            Answer::ok(json!({
                "id": id, "date": it.date, "slot": it.slot, "user_id": it.user_id, "status": it.status
            }))
        })
    }

    fn set_status(&mut self, id: u64, status: &'static str) -> Answer {
        if let Some(booking) = self.bookings.get_mut(&id) {
            booking.status = status;
        }
        self.booking(id)
    }

    fn user(&mut self, id: u64, what: &str, call: &Call) -> Answer {
        match (call.method.as_str(), what) {
            ("GET" | "HEAD", "profile") => {
                self.profiles.get(&id).map_or_else(Answer::not_found, |profile| Answer::ok(profile.clone()))
            }
            ("GET" | "HEAD", "stats") => {
                let count = self.bookings.values().filter(|booking| booking.user_id == id).count();
                Answer::ok(json!({ "booking_count": count }))
            }
            ("PUT", "profile") => {
                self.profiles.insert(id, call.content.clone());
                Answer::ok(call.content.clone())
            }
            _ => Answer::not_found(),
        }
    }
}

impl Api for MyHibachi {
    fn answer(&mut self, call: &Call) -> Answer {
        let number = |text: &str| text.parse().unwrap_or(0);
        let (method, path) = call.route();
        let needs_staff = matches!(path[..], ["api", "auth" | "bookings", "check" | "stats"]);
        if needs_staff && !self.is_staff(call) {
            return Answer::error(StatusCode::UNAUTHORIZED, "log in").with("www-authenticate", "Bearer");
        }
        match (method, &path[..]) {
            ("GET", ["api", "auth", "check"]) => Answer::ok(json!({ "staff": true })),
            ("POST", ["api", "auth", "logout"]) => {
                if let Some(token) = &call.token {
                    self.staff.remove(token);
                }
                Answer::ok(json!({ "success": true }))
            }
            ("GET", ["api", "bookings", "stats"]) => self.stats(call.parameter("station_id").map(number)),
            ("GET", ["api", "bookings", "availability"]) => self.slots(call.parameter("date").unwrap_or("")),
            ("GET", ["api", "bookings", id]) => self.booking(number(id)),
            ("POST", ["api", "bookings"]) => self.book(&call.content),
            ("POST", ["api", "bookings", id, "confirm"]) => self.set_status(number(id), "CONFIRMED"),
            ("POST", ["api", "bookings", id, "cancel"]) => self.set_status(number(id), "CANCELLED"),
            (_, ["api", "users", id, what]) => self.user(number(id), what, call),
            ("DELETE", ["api", "users", id]) => match self.profiles.remove(&number(id)) {
                Some(_) => Answer::ok(json!({ "success": true })),
                None => Answer::not_found(),
            },
            ("GET", ["api", "config", "settings"]) => Answer::ok(json!(self.settings)),
            ("GET", ["api", "config", "features"]) => Answer::ok(json!({ "gift_cards": true })),
            ("PUT", ["api", "config", "settings", key]) => {
                self.settings.insert((*key).to_owned(), call.content.clone());
                Answer::ok(json!(self.settings))
            }
            _ => Answer::not_found(),
        }
    }
}
