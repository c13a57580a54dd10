//! The tags of entries and of writes.

use super::*;

#[test]
fn entries_carry_levels_and_instances() {
    let rules = families(&[
        ("booking:stats", "/b/stats"),
        ("booking:room", "/b/(?<hotel>[^/]+)/(?<room>[^/]+)"),
        ("a", "/a(?:/(?<id>.*))?"),
    ]);
    let rows: [(&str, &[&str], &str); 5] = [
        ("/b/stats", &["booking", "booking:stats"], "booking:stats"),
        (
            "/b/7/12",
            &["booking", "booking:room", "booking:room:7", "booking:room:*:12", "booking:room:7:12"],
            "booking:room:7:12",
        ),
        ("/a/x:*", &["a", "a:x%3A%2A"], "a:x%3A%2A"),
        ("/a", &["a", "a:"], "a:"),
        ("/a/%7E", &["a", "a:%7E"], "a:%7E"),
    ];
    for (path, tags, label) in rows {
        let RouteMatch { family, captures } = rules.route(&Method::GET, path).unwrap();
        assert_eq!(texts(&family.tags(&captures)), tags, "{path}");
        assert_eq!(family.label(&captures, &InstanceValues::new()), label);
    }
}

#[test]
fn a_write_names_a_tag_that_the_entry_carries() {
    let rules = rules(
        r#"
        [[family]]
        name = "room"
        path = '/hotels/(?<hotel>[^/]+)/rooms/(?<room>[^/]+)'

        [invalidate]
        '/hotels/(?<h>[^/]+)'                   = ["room:{h}"]
        '/any/rooms/(?<r>[^/]+)'                = ["room:*:{r}"]
        '/hotels/(?<h>[^/]+)/rooms/(?<r>[^/]+)' = ["room:{h}:{r}"]
        "#,
    );
    let entry = |path: &str| {
        let RouteMatch { family, captures } = rules.route(&Method::GET, path).unwrap();
        family.tags(&captures)
    };
    let rows = [
        ("/hotels/1", "/hotels/1/rooms/2", true),
        ("/hotels/1", "/hotels/2/rooms/2", false),
        ("/any/rooms/2", "/hotels/9/rooms/2", true),
        ("/any/rooms/2", "/hotels/2/rooms/1", false),
        ("/hotels/1/rooms/2", "/hotels/1/rooms/2", true),
        ("/hotels/1/rooms/2", "/hotels/1/rooms/3", false),
        ("/hotels/a:b/rooms/c", "/hotels/a%3Ab/rooms/c", true),
        ("/hotels/a:b/rooms/c", "/hotels/a/rooms/b:c", false),
    ];
    for (write, read, hits) in rows {
        let invalidated = invalidated(&rules, "PUT", write);
        let hit = entry(read).iter().any(|tag| invalidated.iter().any(|it| it == tag.as_str()));
        assert_eq!(hit, hits, "{write} on {read}");
    }
}

#[test]
fn a_read_carries_a_tag_for_each_value_of_its_instances() {
    let rules = rules(
        r#"
        [[family]]
        name = "room"
        path = '/rooms/(?<room>[^/]+)'
        headers = ["x-tenant"]
        instance = { date = "query:date", tenant = "header:x-tenant" }
        "#,
    );
    let RouteMatch { family, captures } = rules.route(&Method::GET, "/rooms/1").unwrap();
    let tags = |query: &str, fields: &[(&str, &str)]| {
        let target = Target { query: Some(query.to_owned()), ..Target::default().at("/rooms/1") };
        let fields = crate::http::sample::fields(fields);
        let values = family.instance_values(&target, PresentedCredentials::without_token(&fields), None)?;
        Some(texts(&family.tags_of(&target.readings(), &captures, &values)).join(" "))
    };
    type Fields = &'static [(&'static str, &'static str)];
    let rows: [(&str, Fields, &str); 3] = [
        ("", &[], "room room:1"),
        ("date=a&date=b", &[], "room room:*:a room:*:b room:1 room:1:a room:1:b"),
        (
            "date=a",
            &[("x-tenant", "t")],
            "room room:*:*:t room:*:a room:*:a:t room:1 room:1:*:t room:1:a room:1:a:t",
        ),
    ];
    for (query, fields, expected) in rows {
        assert_eq!(tags(query, fields).as_deref(), Some(expected), "{query}");
    }
    let many: Vec<String> = (0..instance::TAGS).map(|date| format!("date={date}")).collect();
    assert_eq!(tags(&many.join("&"), &[]), None);
}
