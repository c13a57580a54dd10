//! The requirements of the HTTP RFCs on a shared cache and a gateway, tested through real sockets: raw bytes from the
//! client, raw bytes from upstream. `README.md` in this directory lists every requirement with its tests.

mod caching;
mod connections;
mod demands;
mod disconnected;
mod endings;
mod freshness;
mod groups;
mod heads;
mod heuristics;
mod http2;
mod invalidation;
mod leftovers;
mod messages;
mod parsing;
mod parts;
mod paths;
mod query;
mod ranges;
mod requests;
mod spellings;
mod stale;
mod status;
mod storing;
mod table;
mod targeted;
mod uploads;
mod validation;
mod variants;
mod vary;
pub mod wire;
