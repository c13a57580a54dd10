//! Reads what operators name: `user_details:42` in a purge, or one instance in all families that have it.

use super::super::instance;
use super::super::nearest::{listing, nearest};
use super::check::{check_room, check_values, folded};
use super::fault::{ReferenceFault, UnknownFamily};
use super::names::FamilyNames;
use super::parse::{glob, instance, looks_like_glob, value_part};
use super::{InstanceEverywhere, InstancePart, LeftOut, Reference, ReferenceTarget, in_tags};
use crate::secret::Secret;

impl Reference {
    /// Parses a reference in an operator's request: no captures, and the last value may contain `:`.
    pub fn resolve(text: &str, names: &FamilyNames) -> Result<Reference, UnknownFamily> {
        let unknown = |fault: ReferenceFault| UnknownFamily {
            reference: text.to_owned(),
            nearest: names.nearest(text),
            have: listing(names.all()),
            instance: match fault {
                ReferenceFault::Value { message, remedy } => Some((message, remedy)),
                _ => None,
            },
        };
        if text == "*" {
            return Ok(Reference::from(ReferenceTarget::Everything));
        }
        match names.split(text) {
            Some((name, known, rest)) if !looks_like_glob(rest) => {
                let room = known.room().unwrap_or(instance::CAPTURES);
                let typed: Vec<&str> = rest.splitn(room.max(1) + 1, ':').skip(1).collect();
                let parts: Vec<InstancePart> = typed.iter().map(|part| value_part(part, names.case())).collect();
                check_room(text, name, known, &parts, names)
                    .and_then(|()| check_below(name, &typed, names))
                    .and_then(|()| check_values(name, (known, names.case()), typed.iter().copied()))
                    .map_err(unknown)?;
                let have = names.instances(name).unwrap_or_default();
                let part = |(at, part): (usize, InstancePart)| {
                    let instance = have.get(at).copied().unwrap_or_default();
                    match (part, names.why_unnamed(name, instance)) {
                        (InstancePart::Value(_), Some(why)) => Err(ReferenceFault::Value {
                            message: format!("{:?} names nothing in {name:?}: {why}", typed[at]),
                            remedy: format!("POST /cache/clear/{name} purges all of the family"),
                        }),
                        (part @ InstancePart::Value(_), None) if names.is_claim(name, instance) => {
                            Ok(InstancePart::Claim(Box::new(part)))
                        }
                        (part, _) => Ok(part),
                    }
                };
                let parts: Result<Vec<InstancePart>, _> = parts.into_iter().enumerate().map(part).collect();
                Ok(Reference::from(instance(name, parts.map_err(unknown)?)))
            }
            _ => glob(text, names).map_err(unknown),
        }
    }

    /// The instances with this name, or this name and `_id`, and with this value, in all families that have one, for an
    /// operator. `secret` keys digests of callers. `Err`: the names that there are, nearest first.
    pub fn everywhere(
        name: &str,
        value: &str,
        names: &FamilyNames,
        secret: Option<&Secret>,
    ) -> Result<InstanceEverywhere, Vec<String>> {
        let in_tag = instance::value(&folded(&value.replace('%', "%25"), names.case())).into_owned();
        let mut found = InstanceEverywhere::default();
        let with_id = format!("{name}_id");
        for (name, (family, at)) in
            [name, &with_id].into_iter().flat_map(|name| names.with_instance(name).map(move |found| (name, found)))
        {
            if let Some(why) = names.why_unnamed(family, name) {
                found.left_out.push(LeftOut { family: family.to_owned(), why });
                continue;
            }
            let values = if names.is_claim(family, name) { in_tags(value, secret) } else { vec![in_tag.clone()] };
            for value in values {
                let mut parts = vec![None; at];
                parts.push(Some(value.as_str()));
                found.tags.push(instance::tag(family, &parts));
            }
            if !found.families.iter().any(|known| known == family) {
                found.families.push(family.to_owned());
            }
        }
        found.families.sort_unstable();
        if found.families.is_empty() && found.left_out.is_empty() {
            let all = names.all_instances();
            let near = nearest(name, all.iter().copied());
            let near = if near.is_empty() { all } else { near };
            return Err(near.into_iter().map(str::to_owned).collect());
        }
        Ok(found)
    }
}

/// Rejects `user:7:settings` for a family `user` if there is a family `user:settings`: it is no value of `user`. A
/// `:` in a value is written `%3A`.
fn check_below(name: &str, typed: &[&str], names: &FamilyNames) -> Result<(), ReferenceFault> {
    let Some((value, last)) = typed.last().and_then(|last| last.rsplit_once(':')) else { return Ok(()) };
    let below = format!("{name}:{last}");
    let message = format!("{:?} is no value of {name:?}", format!("{value}:{last}"));
    if last == "*" {
        let remedy = format!("name {:?}: an instance has nothing below it", format!("{name}:{value}"));
        return Err(ReferenceFault::Value { message, remedy });
    }
    if !names.known.contains_key(&below) {
        return Ok(());
    }
    let remedy = format!("did you mean {:?}?", format!("{below}:{value}"));
    Err(ReferenceFault::Value { message, remedy })
}
