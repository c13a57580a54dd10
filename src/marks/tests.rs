use proptest::prelude::*;

use super::*;

fn marks() -> Marks {
    Marks::new(Epoch(7), 1 << 12)
}

fn view_of(marks: &Marks, tag: &Tag) -> MarksView {
    view_at(marks, tag, 0)
}

fn view_at(marks: &Marks, tag: &Tag, now: u64) -> MarksView {
    marks.view(&hold(marks, tag), || now)
}

fn hold(marks: &Marks, tag: &Tag) -> HeldTags {
    marks.hold([tag])
}

fn invalidate<'t>(marks: &Marks, tags: impl IntoIterator<Item = &'t Tag>) -> IssuedStamp {
    marks.invalidate(tags, [], Now::default())
}

/// Soft-invalidates a family at a time of the steady clock.
fn soft_invalidate(marks: &Marks, name: &str, grace: u64, steady: u64) -> IssuedStamp {
    marks.invalidate([], [&soft(name, grace)], Now { wall: 0, steady })
}

fn soft(name: &str, grace: u64) -> SoftInvalidation {
    SoftInvalidation { tag: Tag::family(name), grace: Duration::from_nanos(grace) }
}

#[test]
fn the_tag_of_a_group_equals_no_other_tag_whatever_its_name() {
    let names = ["*", "", "/", "x", "/x", "h/x", "uri:/x", "group h/x", "a b", "\n", "(sentinel)", "ä"];
    let mut tags: Vec<Tag> = vec![Tag::root(), Tag::uri("/x"), Tag::family("group"), Tag::family("group:h/x")];
    tags.push(Tag::family("(sentinel)"));
    for name in names {
        tags.extend([Tag::group("h", name), Tag::group("h:80", name), Tag::group_anywhere(name)]);
    }
    let count = tags.len();
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), count);
}

#[test]
fn an_entry_stamped_before_an_invalidation_is_not_current_after_it() {
    let (marks, tag) = (marks(), Tag::family("user_list"));
    let before = marks.stamp();
    assert!(view_of(&marks, &tag).is_current(before));
    invalidate(&marks, [&tag]);
    assert!(!view_of(&marks, &tag).is_current(before));
    assert!(view_of(&marks, &tag).is_current(marks.stamp()));
}

#[test]
fn other_tags_stay_current() {
    let marks = marks();
    let (a, b) = (Tag::family("a"), Tag::family("b"));
    let _held = hold(&marks, &b);
    let before = marks.stamp();
    invalidate(&marks, [&a]);
    assert!(view_of(&marks, &b).is_current(before));
}

#[test]
fn the_response_to_a_write_is_stamped_only_if_no_other_write_came_in_between() {
    let (marks, tag) = (marks(), Tag::family("a"));
    let (_held, of_answer) = (hold(&marks, &tag), [Tag::root(), tag.clone()]);
    let written = || IssuedStamp { latest: Some(marks.latest(&of_answer)), ..invalidate(&marks, [&tag]) };
    let before = view_of(&marks, &tag);
    let stamp = written().stamp_of_answer(&before).unwrap();
    assert!(view_of(&marks, &tag).is_current(stamp));
    for other in [&tag, &Tag::root()] {
        let before = view_of(&marks, &tag);
        invalidate(&marks, [other]);
        assert_eq!(written().stamp_of_answer(&before), None, "{other}");
    }
    let before = view_of(&marks, &tag);
    invalidate(&marks, [&Tag::family("b")]);
    assert!(written().stamp_of_answer(&before).is_some(), "of another tag");
    let before = view_of(&marks, &tag);
    soft_invalidate(&marks, "a", 10, 0);
    assert_eq!(written().stamp_of_answer(&before), None, "softly");
    let before = view_of(&marks, &tag);
    assert_eq!(invalidate(&marks, [&tag]).stamp_of_answer(&before), None, "no tags were asked for");
}

#[test]
fn in_a_copy_nothing_older_than_its_floor_is_current() {
    let (marks, tag) = (marks(), Tag::family("a"));
    let at = |sequence| Stamp { epoch: Epoch(9), sequence };
    marks.begin(at(100));
    assert!(!view_of(&marks, &tag).is_current(at(99)) && view_of(&marks, &tag).is_current(at(100)));
    marks.apply([(&tag, 120)]);
    assert_eq!(marks.stamp(), at(100), "others may have been missed");
    assert!(!view_of(&marks, &tag).is_current(at(119)) && view_of(&marks, &tag).is_current(at(120)));
    marks.applied(120);
    assert_eq!(marks.stamp(), at(120));
    marks.raise_floor(200);
    assert!(!view_of(&marks, &Tag::family("b")).is_current(at(199)));
    assert_eq!(marks.stamp(), at(200));
    // Redis's clock was set back: the new epoch's sequences are lower.
    marks.begin(Stamp { epoch: Epoch(10), sequence: 50 });
    assert!(view_of(&marks, &tag).is_current(Stamp { epoch: Epoch(10), sequence: 50 }));
    assert!(!view_of(&marks, &tag).is_current(at(500)));
}

#[test]
fn a_view_read_while_the_epoch_changes_makes_nothing_current() {
    let marks = Arc::new(marks());
    let (tag, changing) = (Tag::family("a"), Arc::clone(&marks));
    let invalidated = |epoch| Stamp { epoch: Epoch(epoch), sequence: 10 };
    // In every epoch the tag's mark is above 10 from the moment that the epoch is there.
    marks.begin(Stamp { epoch: Epoch(1), sequence: 20 });
    let changer = std::thread::spawn(move || {
        (2..2000).for_each(|epoch| changing.begin(Stamp { epoch: Epoch(epoch), sequence: 20 }));
    });
    while !changer.is_finished() {
        let view = view_of(&marks, &tag);
        assert!(!view.is_current(invalidated(view.stamp.epoch.0)), "{view:?}");
    }
    changer.join().unwrap();
}

#[test]
fn another_epoch_is_never_current() {
    let (marks, tag) = (marks(), Tag::root());
    let stamp = Stamp { epoch: Epoch(8), sequence: u64::MAX };
    assert!(!view_of(&marks, &tag).is_current(stamp));
}

#[test]
fn tags_that_are_not_held_share_slots_and_cost_each_other_only_misses() {
    let marks = Marks::new(Epoch(1), 1);
    let (a, b, c) = (Tag::family("a"), Tag::family("b"), Tag::family("c"));
    let held = hold(&marks, &c);
    let before = marks.stamp();
    invalidate(&marks, [&a]);
    assert!(!view_of(&marks, &b).is_current(before));
    assert!(view_of(&marks, &b).is_current(marks.stamp()), "what is fetched from now on");
    assert!(view_of(&marks, &c).is_current(before) && view_of(&marks, &Tag::group("h", "c")).newest > 1);
    invalidate(&marks, [&c]);
    let after = marks.stamp();
    drop(held);
    assert_eq!(marks.held(), 0);
    for tag in [&a, &b, &c] {
        assert_eq!(view_of(&marks, tag).newest, after.sequence, "{tag}: what was held last is not forgotten");
    }
    assert!(marks.view(&HeldTags::default(), || 0).is_current(before), "the root tag shares no slot");
}

#[test]
fn a_sequence_is_the_time_unless_the_clock_was_set_back() {
    let (marks, tag) = (marks(), Tag::family("a"));
    let at = |wall| marks.invalidate([&tag], [], Now { wall, steady: 0 });
    for (wall, sequence, previous) in [(1000, 1000, 1), (1000, 1001, 1000), (900, 1002, 1001), (2000, 2000, 1002)]
    {
        let taken = at(wall);
        assert_eq!((taken.stamp.sequence, taken.previous), (sequence, previous), "at {wall}");
        assert_eq!(view_of(&marks, &tag).newest, sequence);
    }
}

#[test]
fn any_in_finds_the_latest_hard_or_soft_invalidation_of_a_tag() {
    let marks = marks();
    let names = ["hard", "soft", "both", "never"].map(Tag::family);
    let held = hold(&marks, &names[1]);
    let at = |tags: &[&Tag], softly: &[SoftInvalidation], wall| {
        marks.invalidate(tags.iter().copied(), softly, Now { wall, steady: 0 })
    };
    at(&[&names[0], &names[2]], &[], 100);
    at(&[], &[soft("soft", 10), soft("both", 10)], 200);
    let is_in = |tags: &[usize], time| {
        marks.any_in(&tags.iter().map(|tag| names[*tag].clone()).collect::<Vec<_>>(), &time)
    };
    for (tag, hard, soft) in [(0, true, false), (1, false, true), (2, false, true), (3, false, false)] {
        assert_eq!((is_in(&[tag], 100..101), is_in(&[tag], 200..300)), (hard, soft), "{}", names[tag]);
    }
    assert!(is_in(&[3, 0], 100..101) && is_in(&[0, 1], 100..101), "each counts by itself");
    assert!(!is_in(&[0, 1, 2, 3], 101..200));
    at(&[&Tag::root()], &[], 500);
    assert!(is_in(&[3], 500..501) && is_in(&[], 500..501));
    marks.raise_floor(600);
    assert!(!is_in(&[0, 1, 2, 3], 0..700), "the floor is no invalidation of theirs");
    at(&[&names[3]], &[], 650);
    assert!(is_in(&[3], 650..651) && !is_in(&[2], 601..700));
    drop(held);
}

#[test]
fn redis_may_confirm_that_a_mark_was_raised_by_other_tags() {
    let (marks, tag) = (marks(), Tag::family("a"));
    let at = |sequence| Stamp { epoch: Epoch(9), sequence };
    let held = hold(&marks, &tag);
    marks.begin(at(100));
    let newest = || view_of(&marks, &tag).newest;
    marks.confirm(&held, &MarksView::hard(Stamp { epoch: Epoch(8), sequence: 200 }, 50));
    assert_eq!(newest(), 100, "a word of another epoch");
    marks.confirm(&held, &MarksView::hard(at(99), 50));
    assert_eq!(newest(), 100, "the store did not know all");
    marks.confirm(&held, &MarksView::hard(at(100), 50).soft(70, Duration::from_secs(1)));
    assert_eq!(newest(), 70, "what is soft-invalidated is not current");
    marks.confirm(&held, &MarksView::hard(at(100), 50));
    assert_eq!(newest(), 50);
    assert_eq!(view_of(&marks, &Tag::family("b")).newest, 100, "of other tags it says nothing");
    marks.confirm(&held, &MarksView::hard(at(200), 60));
    assert_eq!(newest(), 50, "it says no more than that nothing came later");
    marks.apply([(&tag, 300)]);
    marks.confirm(&held, &MarksView::hard(at(299), 60));
    assert_eq!(newest(), 300);
}

#[test]
fn no_invalidation_is_lost_while_tags_are_held_and_released() {
    let marks = Arc::new(Marks::new(Epoch(1), 2));
    let names = ["a", "b", "c"].map(Tag::family);
    let is_over = Arc::new(AtomicU64::new(0));
    let (others, ended, tags) = (Arc::clone(&marks), Arc::clone(&is_over), names.clone());
    let readers: Vec<_> = (0..3)
        .map(|n| {
            let (marks, is_over, tag) = (Arc::clone(&others), Arc::clone(&ended), tags[n].clone());
            std::thread::spawn(move || {
                let mut seen = 0;
                while is_over.load(SeqCst) == 0 {
                    let newest = view_of(&marks, &tag).newest;
                    assert!(newest >= seen, "{newest} after {seen}");
                    seen = newest;
                }
            })
        })
        .collect();
    for _ in 0..50_000 {
        for tag in &names {
            let taken = invalidate(&marks, [tag]);
            assert!(view_of(&marks, tag).newest >= taken.stamp.sequence, "{tag}");
        }
    }
    is_over.store(1, SeqCst);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert_eq!(marks.held(), 0);
}

#[test]
fn a_soft_invalidation_counts_as_hard_when_its_grace_is_over() {
    let (marks, tag) = (marks(), Tag::family("a"));
    let _held = hold(&marks, &tag);
    let before = marks.stamp();
    soft_invalidate(&marks, "a", 100, 1000);
    let left = |nanos| Validity::SoftInvalidated { left: Duration::from_nanos(nanos) };
    for (now, expected) in
        [(1000, left(100)), (1099, left(1)), (1100, Validity::Invalidated), (9000, Validity::Invalidated)]
    {
        let view = view_at(&marks, &tag, now);
        assert_eq!(view.validity(before), expected, "{now}");
        assert_eq!(view.validity(marks.stamp()), Validity::Current, "fetched since");
        assert_eq!(view.is_current(before), expected != Validity::Invalidated);
    }
    let (b, other) = (Tag::family("b"), marks.stamp());
    soft_invalidate(&marks, "b", 100, 1000);
    assert_eq!(view_at(&marks, &b, 1000).validity(other), Validity::Invalidated, "it was not held");
    let other = view_at(&marks, &Tag::family("c"), 1000);
    assert_eq!(other.validity(before), Validity::Current);
}

#[test]
fn further_soft_invalidations_do_not_extend_the_grace() {
    let (marks, tag) = (marks(), Tag::family("a"));
    let _held = hold(&marks, &tag);
    let before = marks.stamp();
    soft_invalidate(&marks, "a", 100, 0);
    let between = marks.stamp();
    soft_invalidate(&marks, "a", 100, 60);
    for stamp in [before, between] {
        assert_eq!(
            view_at(&marks, &tag, 99).validity(stamp),
            Validity::SoftInvalidated { left: Duration::from_nanos(1) }
        );
        assert_eq!(view_at(&marks, &tag, 100).validity(stamp), Validity::Invalidated);
    }
    // When it is over, the next one has a grace of its own; what the first invalidated stays invalidated.
    let third = marks.stamp();
    soft_invalidate(&marks, "a", 100, 150);
    let view = view_at(&marks, &tag, 200);
    assert_eq!(view.validity(before), Validity::Invalidated);
    assert_eq!(view.validity(third), Validity::SoftInvalidated { left: Duration::from_nanos(50) });
}

#[test]
fn a_hard_invalidation_ends_the_grace_and_the_next_soft_one_has_its_own() {
    let (marks, tag) = (marks(), Tag::family("a"));
    let _held = hold(&marks, &tag);
    let before = marks.stamp();
    soft_invalidate(&marks, "a", 100, 0);
    invalidate(&marks, [&tag]);
    assert_eq!(view_at(&marks, &tag, 10).validity(before), Validity::Invalidated);
    let since = marks.stamp();
    soft_invalidate(&marks, "a", 100, 90);
    assert_eq!(
        view_at(&marks, &tag, 110).validity(since),
        Validity::SoftInvalidated { left: Duration::from_nanos(80) }
    );
}

#[test]
fn no_clock_is_read_for_a_stamp_younger_than_all_soft_marks() {
    let (marks, tag) = (marks(), Tag::family("a"));
    let (held, _other) = (hold(&marks, &tag), hold(&marks, &Tag::family("other")));
    let of = |stamp: Stamp| marks.view_of(&held, stamp.sequence, || panic!("the clock was read")).validity(stamp);
    assert_eq!(of(marks.stamp()), Validity::Current);
    let before = marks.stamp();
    soft_invalidate(&marks, "other", 100, 0);
    assert_eq!(of(marks.stamp()), Validity::Current);
    assert_eq!(of(before), Validity::Current, "it has no soft mark");
    // A fetch that began before must not look current to a reader that has seen the view of a younger entry only.
    let view = marks.view_of(&held, marks.stamp().sequence, || 0);
    assert!(!view.is_current(before));
}

#[test]
fn a_new_epoch_has_no_soft_marks() {
    let (marks, tag) = (marks(), Tag::family("a"));
    let _held = hold(&marks, &tag);
    marks.begin(Stamp { epoch: Epoch(1), sequence: 100 });
    marks.soft_invalidate(&tag, 120, 50, 0);
    marks.begin(Stamp { epoch: Epoch(2), sequence: 10 });
    let stamp = Stamp { epoch: Epoch(2), sequence: 10 };
    assert_eq!(view_at(&marks, &tag, 90).validity(stamp), Validity::Current);
}

#[test]
fn a_soft_marks_sequence_is_never_read_with_the_end_of_another() {
    let marks = Arc::new(Marks::new(Epoch(1), 1));
    let (held, writing) = (hold(&marks, &Tag::family("a")), Arc::clone(&marks));
    let writer = std::thread::spawn(move || {
        // Each is over when the next one comes, so that each has an end of its own.
        (1..200_000).for_each(|n| writing.soft_invalidate(&Tag::family("a"), n, n * 3 + 7, n * 3 + 6));
    });
    let mut seen = 0;
    while !writer.is_finished() {
        let view = marks.view(&held, || 0);
        if let Some(soft) = view.soft.filter(|_| view.newest != Sequence::MAX) {
            assert_eq!(soft.left, Duration::from_nanos(soft.newest * 3 + 7));
            assert!(soft.newest >= seen, "never an older one");
            seen = soft.newest;
        }
    }
    writer.join().unwrap();
}

#[test]
fn no_reader_misses_a_mark_that_becomes_a_hard_one() {
    let marks = Arc::new(Marks::new(Epoch(1), 1));
    let (tag, writing) = (Tag::family("a"), Arc::clone(&marks));
    let invalidated = Stamp { epoch: Epoch(1), sequence: 1 };
    let held = hold(&marks, &tag);
    marks.soft_invalidate(&tag, 2, 10, 0);
    let writer = std::thread::spawn(move || {
        (3..200_000).for_each(|n| writing.soft_invalidate(&Tag::family("a"), n, n * 10, n * 10 - 5));
    });
    while !writer.is_finished() {
        // Its grace was over before the second mark came.
        assert_eq!(marks.view(&held, || 10).validity(invalidated), Validity::Invalidated);
    }
    writer.join().unwrap();
}

/// One tag as this module documents it: every soft invalidation, with the end of its grace.
#[derive(Default)]
struct Model {
    hard: Sequence,
    pending: Vec<(Sequence, u64)>,
    /// Every invalidation: its sequence, and when it counts as hard at the latest.
    promised: Vec<(Sequence, u64)>,
}

impl Model {
    fn soft_invalidate(&mut self, sequence: Sequence, end: u64, now: u64) {
        self.promised.push((sequence, end));
        self.turn_over(now);
        // All that are pending have the end of the first.
        let end = self.pending.iter().map(|(_, end)| *end).min().unwrap_or(end).min(end);
        self.pending.push((sequence, end));
    }

    fn harden(&mut self, sequence: Sequence) {
        self.promised.push((sequence, 0));
        self.hard = self.hard.max(sequence);
        self.pending.retain(|(pending, _)| *pending > sequence);
    }

    /// The mildest validity that breaks no promise.
    fn mildest(&self, sequence: Sequence, now: u64) -> u8 {
        let broken = self.promised.iter().filter(|(promised, _)| sequence < *promised);
        broken.map(|(_, end)| if *end <= now { 2 } else { 1 }).max().unwrap_or(0)
    }

    fn turn_over(&mut self, now: u64) {
        if self.pending.iter().any(|(_, end)| *end <= now) {
            let newest = self.pending.drain(..).map(|(sequence, _)| sequence).max().unwrap_or(0);
            self.hard = self.hard.max(newest);
        }
    }

    fn validity(&mut self, sequence: Sequence, now: u64) -> Validity {
        self.turn_over(now);
        match self.pending.iter().map(|(_, end)| *end).min() {
            _ if sequence < self.hard => Validity::Invalidated,
            Some(end) if self.pending.iter().any(|(pending, _)| sequence < *pending) => {
                Validity::SoftInvalidated { left: Duration::from_nanos(end - now) }
            }
            _ => Validity::Current,
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    SoftInvalidate {
        tag: usize,
        grace: u64,
    },
    Harden {
        tag: usize,
    },
    HardenRoot,
    RaiseFloor,
    /// The first tag is always held, the others at times.
    Hold {
        tag: usize,
    },
    Release {
        tag: usize,
    },
    /// Redis confirms the marks of a tag.
    Confirm {
        tag: usize,
    },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let tag = || 0..3_usize;
    prop_oneof![
        (tag(), 1..40_u64).prop_map(|(tag, grace)| Step::SoftInvalidate { tag, grace }),
        tag().prop_map(|tag| Step::Harden { tag }),
        Just(Step::HardenRoot),
        Just(Step::RaiseFloor),
        (1..3_usize).prop_map(|tag| Step::Hold { tag }),
        (1..3_usize).prop_map(|tag| Step::Release { tag }),
        tag().prop_map(|tag| Step::Confirm { tag }),
        (1..30_u64).prop_map(Step::Wait),
    ]
}

fn severity(validity: Validity) -> u8 {
    match validity {
        Validity::Current => 0,
        Validity::SoftInvalidated { .. } => 1,
        Validity::Invalidated => 2,
    }
}

/// A plain table: each tag by itself, whether it is held or not.
#[derive(Default)]
struct Table {
    tags: [Model; 3],
    root: Sequence,
    /// The floor of each tag; Redis does not know of it.
    floors: [Sequence; 3],
}

impl Table {
    /// The view of Redis, which knows all invalidations.
    fn view(&mut self, tag: usize, stamp: Stamp, now: u64) -> MarksView {
        let model = &mut self.tags[tag];
        model.turn_over(now);
        let view = MarksView::hard(stamp, model.hard.max(self.root));
        let left = |end: &u64| Duration::from_nanos(end - now);
        model.pending.iter().fold(view, |view, (sequence, end)| view.soft(*sequence, left(end)))
    }

    fn validity(&mut self, tag: usize, asked: Sequence, now: u64) -> Validity {
        match self.tags[tag].validity(asked, now) {
            _ if asked < self.root.max(self.floors[tag]) => Validity::Invalidated,
            validity => validity,
        }
    }

    fn mildest(&self, tag: usize, asked: Sequence, now: u64) -> u8 {
        if asked < self.root { 2 } else { self.tags[tag].mildest(asked, now) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn marks_are_never_milder_than_a_plain_table_and_exact_for_held_tags(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let names = ["a", "b", "c"].map(Tag::family);
        // All tags that are not held share one slot.
        let marks = Marks::new(Epoch(7), 1);
        let mut table = Table::default();
        // Since which sequence a tag has been held; the first has always been.
        let mut held = [Some((0, hold(&marks, &names[0]))), None, None];
        let (mut now, mut is_floored) = (0, false);
        for step in steps {
            let before = marks.stamp().sequence;
            match &step {
                Step::SoftInvalidate { tag, grace } => {
                    let soft = SoftInvalidation { tag: names[*tag].clone(), grace: Duration::from_nanos(*grace) };
                    marks.invalidate([], [&soft], Now { wall: 0, steady: now });
                    table.tags[*tag].soft_invalidate(before + 1, now + grace, now);
                }
                Step::Harden { tag } => {
                    invalidate(&marks, [&names[*tag]]);
                    table.tags[*tag].harden(before + 1);
                }
                Step::HardenRoot => table.root = invalidate(&marks, [&Tag::root()]).stamp.sequence,
                Step::RaiseFloor => {
                    marks.raise_floor(before + 1);
                    table.floors = [before + 1; 3];
                    is_floored = true;
                }
                Step::Hold { tag } => {
                    let again = hold(&marks, &names[*tag]);
                    let since = held[*tag].take().map_or(before, |(since, _)| since);
                    held[*tag] = Some((since, again));
                }
                Step::Release { tag } => held[*tag] = None,
                Step::Confirm { tag } => {
                    let view = table.view(*tag, marks.stamp(), now);
                    let own = hold(&marks, &names[*tag]);
                    marks.confirm(&own, &view);
                    if view.soft.is_none() {
                        table.floors[*tag] = 0;
                        held[*tag].iter_mut().for_each(|(since, _)| *since = 0);
                    }
                }
                Step::Wait(time) => now += time,
            }
            let sequence = marks.stamp().sequence;
            for (tag, held) in held.iter().enumerate() {
                for asked in 1..=sequence {
                    let stamp = Stamp { epoch: Epoch(7), sequence: asked };
                    let (expected, mildest) = (table.validity(tag, asked, now), table.mildest(tag, asked, now));
                    prop_assert!(severity(expected) >= mildest);
                    let Some((since, held)) = held else {
                        let found = view_at(&marks, &names[tag], now).validity(stamp);
                        prop_assert!(severity(found) >= mildest, "{tag}: {found:?} for {expected:?}");
                        continue;
                    };
                    let found = marks.view(held, || now).validity(stamp);
                    prop_assert_eq!(marks.view_of(held, asked, || now).validity(stamp), found);
                    prop_assert!(severity(found) >= mildest, "{tag}: {found:?} for {expected:?}");
                    if tag == 0 && !is_floored {
                        prop_assert_eq!(found, expected);
                    } else if asked >= *since && !(is_floored && matches!(expected, Validity::SoftInvalidated { .. })) {
                        // A floor makes earlier soft invalidations hard, and a later grace may then end sooner.
                        prop_assert!(severity(found) <= severity(expected), "{tag}: {found:?} for {expected:?}");
                    }
                }
            }
        }
        drop(held);
        prop_assert_eq!(marks.held(), 0);
    }
}
