//! Fields as they are written: what Larder does not yet read so.

use crate::support::Verdict::Fresh;
use crate::support::{Site, Tier};

#[test]
fn an_age_whose_first_member_is_invalid_does_not_count() {
    let rows = [
        ("Cache-Control: max-age=600\nAge: x, 300", Fresh(600)),
        ("Cache-Control: max-age=600\nAge: -1\nAge: 300", Fresh(600)),
    ];
    Site::start(Tier::Embedded, "").judges_fields("/ages", &rows);
}
