//! Reads the tables of a TOML file and collects every fault with its position. A faulty value reads as absent, and
//! reading continues.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use bytesize::ByteSize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::expand::{Defaults, expand};
use super::fault::{Fault, Source};
use super::instead;
use super::nearest::{did_you_mean, listing, nearest};

/// Looks up an environment variable.
pub type Env<'e> = dyn Fn(&str) -> Option<String> + 'e;

/// The strings of a file in which variables are expanded: the place of the field and its name in messages, and
/// the string as written.
pub type Expansions = BTreeSet<(String, String)>;

/// Most faults collected per file.
const FAULTS: usize = 1000;

/// A file being read, and the faults found so far.
pub struct RulesReader<'s> {
    source: Source<'s>,
    env: &'s Env<'s>,
    faults: RefCell<Vec<Fault>>,
    expansions: RefCell<Expansions>,
    /// Variables are expanded in these strings alone; `None`: in all.
    permitted: Option<&'s Expansions>,
    /// Numbers of the lines that are not TOML.
    broken: Vec<usize>,
    /// Number of faults beyond [`FAULTS`].
    unkept: Cell<usize>,
    /// Every key that was read, with the place of its table.
    #[cfg(test)]
    asked: RefCell<BTreeSet<(String, &'static str)>>,
}

impl<'s> RulesReader<'s> {
    /// Parses the text as TOML. Syntax errors become faults; the rest is returned.
    pub fn open(file: &'s str, text: &'s str, env: &'s Env<'s>) -> (RulesReader<'s>, Spanned<DeTable<'s>>) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let source = Source::new(file, text);
        let faults = RefCell::default();
        let mut reader = RulesReader {
            source,
            env,
            faults,
            expansions: RefCell::default(),
            permitted: None,
            broken: Vec::new(),
            unkept: Cell::new(0),
            #[cfg(test)]
            asked: RefCell::default(),
        };
        for error in &errors {
            let span = error.span().unwrap_or(text.len()..text.len());
            let line = reader.source.line(span.start.min(text.len()));
            // One mistake often causes several syntax errors on its line.
            if !reader.broken.contains(&line) && reader.broken.len() < FAULTS {
                let remedy = syntax_remedy(error.message(), reader.source.line_text(line));
                reader.fault(span, format!("not TOML: {}", error.message()), remedy);
                reader.broken.push(line);
            }
        }
        (reader, root)
    }

    /// Reports every other string with variables as a fault, and does not expand it.
    #[must_use]
    pub fn permitting(self, permitted: Option<&'s Expansions>) -> RulesReader<'s> {
        RulesReader { permitted, ..self }
    }

    /// The strings in which variables were expanded so far.
    pub fn expansions(&self) -> Expansions {
        self.expansions.borrow().clone()
    }

    /// Reports a fault, unless its line is not TOML.
    pub fn fault(&self, span: Range<usize>, message: impl Into<String>, remedy: impl Into<String>) {
        if self.faults.borrow().len() >= FAULTS {
            return self.unkept.set(self.unkept.get() + 1);
        }
        let fault = self.source.fault(span, message, remedy);
        if !self.broken.contains(&fault.line) {
            self.faults.borrow_mut().push(fault);
        }
    }

    /// Reports that something is missing, unless the file is not TOML: then it may just not have been parsed.
    pub fn absence(&self, span: Range<usize>, message: impl Into<String>, remedy: impl Into<String>) {
        if self.broken.is_empty() {
            self.fault(span, message, remedy);
        }
    }

    /// Line of a position, from 1.
    pub fn line(&self, span: &Range<usize>) -> usize {
        self.source.line(span.start)
    }

    /// Reports a key in the wrong table, unless a table header could not be parsed: then every key below it would be
    /// reported.
    fn misplaced(&self, span: Range<usize>, message: String, remedy: String) {
        if !self.broken.iter().any(|line| self.source.line_text(*line).trim_start().starts_with('[')) {
            self.fault(span, message, remedy);
        }
    }

    /// The file's root table.
    pub fn root<'t>(&'t self, table: &'t Spanned<DeTable<'t>>) -> Table<'t> {
        Table::new(self, String::new(), String::new(), table.span(), table.get_ref())
    }

    /// Every key that was read, with the place of its table: `("family[]", "ttl")`.
    #[cfg(test)]
    pub fn asked(&self) -> BTreeSet<(String, &'static str)> {
        self.asked.borrow().clone()
    }

    /// All faults, in file order.
    pub fn finish(self) -> Vec<Fault> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|fault| (fault.line, fault.column));
        if let (Some(last), more @ 1..) = (faults.last_mut(), self.unkept.get()) {
            last.remedy.push_str(&format!(" (and {more} more faults, not shown)"));
        }
        faults
    }

    /// Position of `range` within a string whose value is `value`: exact if the file holds the value verbatim, else
    /// the whole string.
    fn within(&self, span: &Range<usize>, value: &str, range: Range<usize>) -> Range<usize> {
        match self.source.text().get(span.clone()).and_then(|raw| raw.find(value)) {
            Some(offset) => span.start + offset + range.start..span.start + offset + range.end,
            None => span.clone(),
        }
    }
}

fn syntax_remedy(message: &str, line: &str) -> &'static str {
    // A path of `[invalidate]`.
    if message.contains("duplicate key") && line.trim_start().starts_with(['\'', '"']) {
        return "write both in one list: '/path' = [{ families = [\"…\"], methods = [\"POST\"] }, { families = [\"…\"] }]";
    }
    let remedies = [
        ("escape", "in \"…\" a backslash begins an escape: put patterns in single quotes, '/v1\\.0/users'"),
        ("duplicate key", "keep one of them, or rename one"),
        ("must be quoted", "write a value; put text in quotes"),
        ("unquoted key", "put the key in single quotes: '/v1/users' = [\"users\"]"),
        ("string", "close the string with the quote it began with, on the same line"),
        ("missing value", "write a value after the \"=\""),
        ("key with no value", "write it as key = value"),
        ("missing assignment", "write it as key = value"),
        ("comma", "put one comma between two elements"),
        ("array", "close the list with \"]\""),
        ("table", "a table begins with [name], one of several with [[name]]"),
    ];
    let known = remedies.iter().find(|(part, _)| message.contains(part));
    known.map_or("see https://toml.io for how it is written", |(_, remedy)| remedy)
}

/// A table, and which of its keys are known.
pub struct Table<'t> {
    reader: &'t RulesReader<'t>,
    /// Its name in messages: `[server]`, `family "users"`; empty for the root.
    what: String,
    /// Its kind: `server`, `family[]`, `family[].query`, `invalidate.*`; empty for the root.
    place: String,
    span: Range<usize>,
    table: &'t DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'t> Table<'t> {
    fn new(
        reader: &'t RulesReader<'t>,
        what: String,
        place: String,
        span: Range<usize>,
        table: &'t DeTable<'t>,
    ) -> Table<'t> {
        Table { reader, what, place, span, table, known: Vec::new() }
    }

    fn place_of(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) }
    }

    /// The reader of the file.
    pub fn reader(&self) -> &'t RulesReader<'t> {
        self.reader
    }

    /// The position of its header or braces.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Changes its name in messages.
    pub fn rename(&mut self, what: String) {
        self.what = what;
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.what
    }

    /// Prefixes a message with the table's name.
    pub fn says(&self, message: impl Display) -> String {
        if self.what.is_empty() { message.to_string() } else { format!("{}: {message}", self.what) }
    }

    /// The value of a key, if present. The key counts as known from now on.
    pub fn item(&mut self, key: &'static str) -> Option<Item<'t>> {
        self.known.push(key);
        #[cfg(test)]
        self.reader.asked.borrow_mut().insert((self.place.clone(), key));
        let (_, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Item::new(self.reader, self.says(key), self.place_of(key), value))
    }

    /// What `read` makes of the value of a key, if it is present.
    pub fn read<T>(&mut self, key: &'static str, read: impl FnOnce(Item<'t>) -> Option<T>) -> Option<T> {
        self.item(key).and_then(read)
    }

    /// The value of a required key.
    pub fn required(&mut self, key: &'static str, remedy: &str) -> Option<Item<'t>> {
        let item = self.item(key);
        if item.is_none() {
            self.reader.absence(self.span(), self.says(format_args!("{key} is missing")), remedy);
        }
        item
    }

    /// All keys and values with their positions, in file order. Every key counts as known.
    pub fn entries(&self) -> Vec<(&'t str, Range<usize>, Item<'t>)> {
        self.named_entries("invalidation")
    }

    /// The same. `kind`: what messages call an entry, before its key.
    pub fn named_entries(&self, kind: &str) -> Vec<(&'t str, Range<usize>, Item<'t>)> {
        let mut entries: Vec<_> = self.table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let item = |key: &str, value| Item::new(self.reader, format!("{kind} {key:?}"), self.place_of("*"), value);
        entries
            .iter()
            .map(|(key, value)| (key.get_ref().as_ref(), key.span(), item(key.get_ref(), value)))
            .collect()
    }

    /// All members of a table whose keys are values, such as statuses; in file order. Every key counts as known.
    pub fn members(&self) -> Vec<(Text<'t>, Item<'t>)> {
        let mut members: Vec<_> = self.table.iter().collect();
        members.sort_by_key(|(key, _)| key.span().start);
        let what = |key: &str| self.says(key);
        members
            .iter()
            .map(|(key, value)| {
                let name = key.get_ref();
                let text = Text::of_key(self.reader, what(name), key.span(), name);
                (text, Item::new(self.reader, what(name), self.place_of("*"), value))
            })
            .collect()
    }

    /// Reports every key but these.
    pub fn refuse_all_but(&mut self, keys: &[&str], message: &str, remedy: &str) {
        for (key, _) in self.table.iter().filter(|(key, _)| !keys.contains(&key.get_ref().as_ref())) {
            self.reader.fault(key.span(), self.says(format_args!("{} {message}", key.get_ref())), remedy);
        }
    }

    /// Whether the file has any of these keys.
    pub fn has_any(&self, keys: &[&str]) -> bool {
        self.table.iter().any(|(key, _)| keys.contains(&key.get_ref().as_ref()))
    }

    /// Reports a fault of the table as a whole.
    pub fn lacks(&self, message: impl Display, remedy: &str) {
        self.reader.absence(self.span(), self.says(message), remedy);
    }

    /// Reports every key that was not read.
    pub fn finish(self) {
        for (key, value) in self.table.iter().filter(|(key, _)| !self.known.contains(&key.get_ref().as_ref())) {
            let typed = self.reader.source.text().get(value.span()).unwrap_or("");
            let remedy = instead::line(&self.place, key.get_ref(), typed).unwrap_or_else(|| {
                let near = nearest(key.get_ref(), self.known.iter().copied());
                did_you_mean(&near, || format!("known here: {}", listing(self.known.iter().copied())))
            });
            let kind = if self.what.is_empty() { "table or key" } else { "key" };
            let message = self.says(format_args!("unknown {kind} {:?}", key.get_ref()));
            self.reader.misplaced(key.span(), message, remedy);
        }
    }
}

/// A value and its position.
#[derive(Clone)]
pub struct Item<'t> {
    reader: &'t RulesReader<'t>,
    /// Its name in messages: `family "users": ttl`.
    what: String,
    /// Its kind: `family[].ttl`.
    place: String,
    span: Range<usize>,
    value: &'t DeValue<'t>,
}

impl<'t> Item<'t> {
    fn new(reader: &'t RulesReader<'t>, what: String, place: String, value: &'t Spanned<DeValue<'t>>) -> Item<'t> {
        Item { reader, what, place, span: value.span(), value: value.get_ref() }
    }

    /// Its position.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Its line, from 1.
    pub fn line(&self) -> usize {
        self.reader.line(&self.span)
    }

    /// Reports a fault. `message` continues after the name of the value.
    pub fn fault(&self, message: impl Display, remedy: impl Into<String>) {
        self.reader.fault(self.span(), format!("{} {message}", self.what), remedy);
    }

    /// The same for a value that is read as absent then.
    pub fn refuse<T>(&self, message: impl Display, remedy: impl Into<String>) -> Option<T> {
        self.fault(message, remedy);
        None
    }

    /// A list.
    pub fn list(&self) -> Option<Vec<Item<'t>>> {
        match self.value {
            DeValue::Array(array) => {
                let place = format!("{}[]", self.place);
                let item = |value| Item::new(self.reader, self.what.clone(), place.clone(), value);
                Some(array.iter().map(item).collect())
            }
            DeValue::String(text) => self.wrong("a list", &format!("write [{text:?}]")),
            _ => self.wrong("a list", "write it in brackets: [ … ]"),
        }
    }

    /// A list of strings, none empty.
    pub fn texts(&self) -> Option<Vec<Text<'t>>> {
        Some(self.list()?.iter().filter_map(Item::filled).collect())
    }

    /// Whether it is a table.
    pub fn is_table(&self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    /// Whether it is a list.
    pub fn is_list(&self) -> bool {
        matches!(self.value, DeValue::Array(_))
    }

    /// Whether it is a list that contains a table.
    pub fn is_list_of_tables(&self) -> bool {
        let DeValue::Array(array) = self.value else { return false };
        array.iter().any(|value| matches!(value.get_ref(), DeValue::Table(_)))
    }

    /// A table.
    pub fn table(&self) -> Option<Table<'t>> {
        match self.value {
            DeValue::Table(table) => {
                Some(Table::new(self.reader, self.what.clone(), self.place.clone(), self.span(), table))
            }
            _ => match instead::table(&self.place) {
                Some(line) => self.wrong("a table", line),
                None => self.wrong("a table", "write it as a table: { … } or [name]"),
            },
        }
    }

    /// A list of tables (`[[name]]`).
    pub fn tables(&self) -> Option<Vec<Table<'t>>> {
        match self.value {
            DeValue::Array(_) => Some(self.list()?.iter().filter_map(Item::table).collect()),
            DeValue::Table(_) => self.wrong("a list of tables", &format!("write [[{}]]", self.what)),
            _ => self.wrong("a list of tables", "write each as a table"),
        }
    }

    /// A string with its variables expanded.
    pub fn text(&self) -> Option<Text<'t>> {
        self.expanded(Defaults::Allowed)
    }

    /// A secret, which may be empty: a string from the environment. In the file itself its readers would know it, so
    /// that it is a fault there. `variable` is the one that the remedy names.
    pub fn secret(&self, variable: &str) -> Option<Text<'t>> {
        let text = self.expanded(Defaults::OnlyEmpty)?;
        if !text.from_env && !text.value.is_empty() {
            return text
                .refuse("must not be in the file", format!("write \"${{{variable}}}\", and set that variable"));
        }
        Some(text)
    }

    fn expanded(&self, defaults: Defaults) -> Option<Text<'t>> {
        let DeValue::String(raw) = self.value else {
            return self.wrong("a string", "put it in quotes");
        };
        if raw.contains("${") {
            let expansion = (format!("{} {}", self.place, self.what), raw.clone().into_owned());
            if self.reader.permitted.is_some_and(|permitted| !permitted.contains(&expansion)) {
                self.fault(
                    "has a variable of the environment that the running file does not have there, so that it is not expanded",
                    "write the value itself, or check the file with larder check where its variables are set",
                );
                return None;
            }
            self.reader.expansions.borrow_mut().insert(expansion);
        }
        let (expanded, faults) = expand(raw, self.reader.env, defaults);
        for fault in &faults {
            let place = self.reader.within(&self.span, raw, fault.at.clone());
            self.reader.fault(place, format!("{}: {}", self.what, fault.message), fault.remedy.clone());
        }
        let from_env = expanded.is_some();
        faults.is_empty().then(|| Text {
            reader: self.reader,
            what: self.what.clone(),
            span: self.span(),
            raw: raw.as_ref(),
            value: expanded.unwrap_or_else(|| raw.clone().into_owned()),
            from_env,
        })
    }

    /// A string as written, without a fault if it is something else.
    pub fn word(&self) -> Option<&str> {
        match self.value {
            DeValue::String(raw) => Some(raw.as_ref()),
            _ => None,
        }
    }

    /// A string that is not empty.
    pub fn filled(&self) -> Option<Text<'t>> {
        let text = self.text()?;
        if text.value.trim().is_empty() {
            return text.refuse("is empty", "write a value, or remove it");
        }
        Some(text)
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(value) => Some(*value),
            _ => self.wrong("true or false", "write true or false, without quotes"),
        }
    }

    /// A whole number in a range.
    pub fn integer<N: TryFrom<u64>>(&self, range: &RangeInclusive<u64>) -> Option<N> {
        let DeValue::Integer(number) = self.value else {
            return self.wrong("a whole number", "write digits, without quotes");
        };
        let digits = number.as_str().replace('_', "");
        let value = u64::from_str_radix(digits.trim_start_matches('+'), number.radix()).ok();
        if value.is_none_or(|value| !range.contains(&value)) {
            let (from, to) = range.clone().into_inner();
            self.fault(format_args!("{number} is out of range"), format!("write a number from {from} to {to}"));
            return None;
        }
        N::try_from(value?).ok()
    }

    /// Whether it is `true` or `false`.
    pub fn is_boolean(&self) -> bool {
        matches!(self.value, DeValue::Boolean(_))
    }

    /// Whether it is a whole number.
    pub fn is_integer(&self) -> bool {
        matches!(self.value, DeValue::Integer(_))
    }

    /// A number as it was written, without a fault if it is something else.
    pub fn number(&self) -> Option<&str> {
        match self.value {
            DeValue::Integer(number) => Some(number.as_str()),
            DeValue::Float(number) => Some(number.as_str()),
            _ => None,
        }
    }

    /// A duration such as `3m` in a range.
    pub fn duration(&self, range: &RangeInclusive<Duration>) -> Option<Duration> {
        if let DeValue::Integer(number) = self.value {
            return self.wrong("a duration", &format!("write {} = \"{number}s\", with its unit", self.key()));
        }
        let text = self.filled()?;
        let Ok(value) = humantime::parse_duration(&text.value) else {
            let digits = text.raw.bytes().all(|byte| byte.is_ascii_digit());
            let remedy = match digits {
                true => format!("write {} = \"{}s\", with its unit", self.key(), text.raw),
                false => "write a number with its unit (ms, s, m, h, d), such as \"90s\"".to_owned(),
            };
            return text.refuse(format_args!("{:?} is not a duration", text.raw), remedy);
        };
        if !range.contains(&value) {
            let (from, to) = (range.start(), range.end());
            let (from, to) = (humantime::format_duration(*from), humantime::format_duration(*to));
            return text.refuse(format_args!("{:?} is out of range", text.raw), format!("write {from} to {to}"));
        }
        Some(value)
    }

    /// A size such as `8MiB`, in bytes, in a range.
    pub fn size<N: TryFrom<u64>>(&self, range: &RangeInclusive<u64>) -> Option<N> {
        if let DeValue::Integer(number) = self.value {
            return self.wrong("a size", &format!("write {} = \"{number}B\", with its unit", self.key()));
        }
        let text = self.filled()?;
        let Ok(value) = text.value.trim().parse::<ByteSize>() else {
            let remedy = "write a number with its unit (B, KiB, MiB, GiB, kB, MB, GB), such as \"8MiB\"";
            return text.refuse(format_args!("{:?} is not a size", text.raw), remedy);
        };
        if !range.contains(&value.as_u64()) {
            let (from, to) = (ByteSize::b(*range.start()), ByteSize::b(*range.end()));
            return text.refuse(format_args!("{:?} is out of range", text.raw), format!("write {from} to {to}"));
        }
        N::try_from(value.as_u64()).ok()
    }

    /// One of the given words.
    pub fn choice<T: Clone>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.filled()?;
        let found = words.iter().find(|(word, _)| *word == text.value);
        if found.is_none() {
            let list: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            text.fault(format_args!("{:?} is not known", text.raw), format!("write {}", list.join(" or ")));
        }
        found.map(|(_, value)| value.clone())
    }

    /// Its key.
    fn key(&self) -> &str {
        self.place.rsplit('.').next().unwrap_or(&self.place)
    }

    fn wrong<T>(&self, expected: &str, remedy: &str) -> Option<T> {
        let kind = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.fault(format_args!("must be {expected}, not {kind}"), remedy);
        None
    }
}

/// A string with its variables expanded.
pub struct Text<'t> {
    reader: &'t RulesReader<'t>,
    what: String,
    span: Range<usize>,
    /// As written in the file. Messages quote this, since a variable may hold a secret.
    pub raw: &'t str,
    /// The expanded value.
    pub value: String,
    /// Whether a part of it comes from the environment.
    from_env: bool,
}

impl<'t> Text<'t> {
    /// A key of a table, which is never expanded.
    pub fn of_key(reader: &'t RulesReader<'t>, what: String, span: Range<usize>, key: &'t str) -> Text<'t> {
        Text { reader, what, span, raw: key, value: key.to_owned(), from_env: false }
    }

    /// Whether a variable in it has a default that is not empty.
    pub fn has_default(&self) -> bool {
        let defaults = self.raw.split(":-").skip(1);
        self.from_env && defaults.into_iter().any(|rest| !rest.starts_with('}'))
    }

    /// Its value, unless a part of it comes from the environment and may be a secret.
    pub fn showable(&self) -> Option<&str> {
        (!self.from_env).then_some(&self.value)
    }

    /// Its position.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Its line, from 1.
    pub fn line(&self) -> usize {
        self.reader.line(&self.span)
    }

    /// Reports a fault. `message` continues after the name of the value.
    pub fn fault(&self, message: impl Display, remedy: impl Into<String>) {
        self.reader.fault(self.span(), format!("{} {message}", self.what), remedy);
    }

    /// The same for a value that is read as absent then.
    pub fn refuse<T>(&self, message: impl Display, remedy: impl Into<String>) -> Option<T> {
        self.fault(message, remedy);
        None
    }

    /// Reports a fault in a byte range of the value.
    pub fn fault_at(&self, range: Range<usize>, message: impl Display, remedy: impl Into<String>) {
        let place = if self.from_env { self.span() } else { self.reader.within(&self.span, &self.value, range) };
        self.reader.fault(place, format!("{}: {message}", self.what), remedy);
    }

    /// Reports that the referenced item is missing.
    pub fn absence(&self, message: impl Display, remedy: impl Into<String>) {
        self.reader.absence(self.span(), format!("{}: {message}", self.what), remedy);
    }
}
