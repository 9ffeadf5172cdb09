//! Walks parsed TOML against the tables of a `schema` and reports all that does not fit: the configuration,
//! or a plugin's case file.
//!
//! serde would stop at the first mistake, so this is a reader of its own: a table is described once
//! with `table!`, which makes the struct, the code that reads it and its JSON schema. A value that
//! does not fit is reported here, once, and its [`Field`] becomes `Mistaken`: later stages neither
//! see it nor complain that it is missing.

use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Diagnostic;
use super::model::{Located, Span};
use super::values::{FromText, Mistake};

/// A TOML value with its place.
pub(super) type Node<'i> = Spanned<DeValue<'i>>;

/// What can stand at a place of the file.
pub(super) trait Read {
    /// What later stages see.
    type Out;
    /// `a string`, for "must be a string".
    const EXPECTED: &'static str;
    /// What to write instead of a value of the wrong type.
    const HINT: Option<&'static str> = None;

    /// `None` means that a mistake was reported.
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self::Out>;
}

/// A table with a fixed set of keys, made by `table!`.
pub(super) trait Table: Read {
    /// How the table is called in messages: `[[route]]`.
    const TITLE: &'static str;
    const KEYS: &'static [&'static str];
}

/// One key of a table, as the user left it.
#[derive(Default)]
pub(super) enum Field<T: Read> {
    #[default]
    Absent,
    /// It is there, but wrong; that was reported.
    Mistaken,
    Given(Located<T::Out>),
}

/// Collects the mistakes of one walk.
pub(super) struct Reader<'s> {
    text: &'s str,
    words: &'static Words,
    diagnostics: Vec<Diagnostic>,
}

/// The words of a kind of document, for hints about those that it does not know.
pub(super) struct Words {
    /// Every table with its keys.
    pub(super) tables: &'static [(&'static str, &'static [&'static str])],
    /// What others say, and the key that means it here.
    pub(super) elsewhere: &'static [(&'static str, &'static str)],
}

/// A string that means something: `Text<Duration>`.
pub(super) struct Text<T>(PhantomData<T>);
/// An integer from `MIN` to `MAX`.
pub(super) struct Whole<const MIN: u64, const MAX: u64>;
/// An array.
pub(super) struct List<T>(PhantomData<T>);
/// One value, or an array of them.
pub(super) struct OneOrMany<T>(PhantomData<T>);
/// `[[name]]`: an array of tables.
pub(super) struct Tables<T>(PhantomData<T>);
/// A table whose keys the user chooses.
pub(super) struct Named<K, T>(PhantomData<(K, T)>);
/// A string, or the table that says more.
pub(super) struct TextOr<A, B>(PhantomData<(A, B)>);
/// A switch, or the table that says more.
pub(super) struct BoolOr<T>(PhantomData<T>);

/// What [`TextOr`] or [`BoolOr`] found.
pub(super) enum Either<A, B> {
    Short(A),
    Table(B),
}

/// Describes a table of the configuration file; see the uses in `schema`.
macro_rules! table {
    (
        $(#[$doc:meta])*
        $name:ident $title:literal {
            required { $($(#[$required_doc:meta])* $required:ident: $required_type:ty,)* }
            optional { $($(#[$optional_doc:meta])* $optional:ident: $optional_type:ty,)* }
        }
    ) => {
        $(#[$doc])*
        #[derive(Default, schemars::JsonSchema)]
        #[schemars(deny_unknown_fields)]
        pub(in crate::config) struct $name {
            $($(#[$required_doc])* pub(in crate::config) $required: Field<$required_type>,)*
            $($(#[$optional_doc])* #[schemars(default)] pub(in crate::config) $optional: Field<$optional_type>,)*
        }

        impl $name {
            fn from_table(table: Located<&DeTable<'_>>, reader: &mut Reader<'_>) -> Self {
                reader.refuse_unknown_keys::<Self>(table.value);
                Self {
                    $($required: reader.required::<$required_type, Self>(&table, stringify!($required)),)*
                    $($optional: reader.optional::<$optional_type>(&table, stringify!($optional)),)*
                }
            }
        }

        impl Table for $name {
            const TITLE: &'static str = $title;
            const KEYS: &'static [&'static str] = &[$(stringify!($required),)* $(stringify!($optional),)*];
        }

        impl Read for $name {
            type Out = Self;
            const EXPECTED: &'static str = "a table";

            fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
                let value = node.get_ref().as_table()?;
                Some(Self::from_table(Located { value, span: node.span() }, reader))
            }
        }
    };
}
pub(super) use table;

impl<T: Read> Field<T> {
    pub(super) fn given(&self) -> Option<&Located<T::Out>> {
        match self {
            Field::Given(located) => Some(located),
            Field::Absent | Field::Mistaken => None,
        }
    }

    pub(super) fn value(&self) -> Option<&T::Out> {
        self.given().map(|located| &located.value)
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Field::Absent)
    }

    pub(super) fn is_mistaken(&self) -> bool {
        matches!(self, Field::Mistaken)
    }
}

impl<'s> Reader<'s> {
    pub(super) fn new(text: &'s str, words: &'static Words) -> Self {
        Reader {
            text,
            words,
            diagnostics: Vec::new(),
        }
    }

    pub(super) fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.diagnostics
    }

    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Reads a string's meaning; a mistake inside it is underlined as closely as possible.
    pub(super) fn text<T: FromText>(&mut self, text: &str, span: Span) -> Option<T> {
        match T::from_text(text) {
            Ok(value) => Some(value),
            Err(Mistake {
                message,
                hint,
                within,
            }) => {
                let within = within.and_then(|within| {
                    // Offsets into the value are offsets into the file only if nothing is escaped.
                    let start = span.start + 1;
                    let raw = self.text.get(start..start + text.len())?;
                    (raw == text).then(|| start + within.start..start + within.end)
                });
                self.report(Diagnostic::error(within.unwrap_or(span), message).hint(hint));
                None
            }
        }
    }

    pub(super) fn required<T: Read, In: Table>(
        &mut self,
        table: &Located<&DeTable<'_>>,
        key: &str,
    ) -> Field<T> {
        let field = self.optional(table, key);
        if !field.is_absent() {
            return field;
        }
        let message = format!("{} lacks the key `{}`", In::TITLE, plain(key));
        self.report(Diagnostic::error(table.span.clone(), message));
        Field::Mistaken
    }

    pub(super) fn optional<T: Read>(
        &mut self,
        table: &Located<&DeTable<'_>>,
        key: &str,
    ) -> Field<T> {
        match table.value.get(plain(key)) {
            None => Field::Absent,
            Some(node) => self.field(node, || format!("`{}`", plain(key))),
        }
    }

    pub(super) fn refuse_unknown_keys<T: Table>(&mut self, table: &DeTable<'_>) {
        for key in table.keys() {
            let name = key.get_ref();
            if !T::KEYS.iter().any(|known| plain(known) == name) {
                let message = format!("unknown key `{name}` in {}", T::TITLE);
                let hint = self.words.hint(name, T::TITLE, T::KEYS);
                self.report(Diagnostic::error(key.span(), message).hint(hint));
            }
        }
    }

    /// Reads one value; `what` names it in the message about a wrong type.
    fn field<T: Read>(&mut self, node: &Node<'_>, what: impl Fn() -> String) -> Field<T> {
        let before = self.diagnostics.len();
        match T::read(node, self) {
            Some(value) => Field::Given(Located {
                value,
                span: node.span(),
            }),
            None => {
                if self.diagnostics.len() == before {
                    let found = article(node.get_ref().type_str());
                    let message = format!("{} must be {}, not {found}", what(), T::EXPECTED);
                    let hint = T::HINT.map(str::to_owned);
                    self.report(Diagnostic::error(node.span(), message).hint(hint));
                }
                Field::Mistaken
            }
        }
    }

    fn items<T: Read>(&mut self, nodes: &[Node<'_>]) -> Vec<Field<T>> {
        nodes
            .iter()
            .map(|node| self.field(node, || "an entry of this array".to_owned()))
            .collect()
    }
}

impl Words {
    /// What the user may have meant by a key that `table` does not have.
    pub(super) fn hint(&self, key: &str, table: &str, known: &[&str]) -> Option<String> {
        let known = || known.iter().map(|key| plain(key));
        let suggest = |key: &str| Some(format!("did you mean `{key}`?"));

        if let Some((_, ours)) = self
            .elsewhere
            .iter()
            .find(|(theirs, _)| theirs.eq_ignore_ascii_case(key))
            && known().any(|known| known == *ours)
        {
            return suggest(ours);
        }
        if let Some(close) = closest(key, known()) {
            return suggest(close);
        }
        let homes: Vec<String> = self
            .tables
            .iter()
            .filter(|(title, keys)| *title != table && keys.iter().any(|known| plain(known) == key))
            .map(|(title, _)| (*title).to_owned())
            .collect();
        if !homes.is_empty() {
            return Some(format!("`{key}` belongs in {}", homes.join(" or ")));
        }
        let keys: Vec<&str> = known().collect();
        Some(format!("the keys here are {}", keys.join(", ")))
    }
}

/// A key without Rust's escape: `use` for `r#use`.
pub(super) fn plain(key: &str) -> &str {
    key.strip_prefix("r#").unwrap_or(key)
}

/// The candidate that the user most likely meant.
pub(super) fn closest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // A third of the letters may be wrong: enough for typing mistakes, too little for nonsense.
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, drop, change or swap with their neighbour, in any case.
fn distance(a: &str, b: &str) -> usize {
    let letters = |text: &str| text.chars().take(64).flat_map(char::to_lowercase).collect();
    let (a, b): (Vec<char>, Vec<char>) = (letters(a), letters(b));
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            if i == 0 || j == 0 {
                rows[i][j] = i + j;
                continue;
            }
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1)
                .min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

fn article(kind: &str) -> String {
    match kind {
        "integer" | "array" => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}

impl<T: FromText> Read for Text<T> {
    type Out = T;
    const EXPECTED: &'static str = T::EXPECTED;
    const HINT: Option<&'static str> = T::HINT;

    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<T> {
        reader.text(node.get_ref().as_str()?, node.span())
    }
}

impl Read for bool {
    type Out = bool;
    const EXPECTED: &'static str = "true or false";

    fn read(node: &Node<'_>, _: &mut Reader<'_>) -> Option<bool> {
        node.get_ref().as_bool()
    }
}

impl<const MIN: u64, const MAX: u64> Read for Whole<MIN, MAX> {
    type Out = u64;
    const EXPECTED: &'static str = "an integer";

    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<u64> {
        let integer = node.get_ref().as_integer()?;
        let value = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let value = value.filter(|value| (MIN..=MAX).contains(value));
        if value.is_none() {
            let message = format!("`{integer}` is out of range");
            let hint = match MAX {
                u64::MAX => format!("at least {MIN}"),
                _ => format!("from {MIN} to {MAX}"),
            };
            reader.report(Diagnostic::error(node.span(), message).hint(hint));
        }
        value
    }
}

impl<T: Read> Read for List<T> {
    type Out = Vec<Field<T>>;
    const EXPECTED: &'static str = "an array";

    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self::Out> {
        Some(reader.items(node.get_ref().as_array()?))
    }
}

impl<T: Read> Read for OneOrMany<T> {
    type Out = Vec<Field<T>>;
    const EXPECTED: &'static str = T::EXPECTED;

    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self::Out> {
        match node.get_ref() {
            DeValue::Array(nodes) => Some(reader.items(nodes)),
            _ => {
                let value = T::read(node, reader)?;
                Some(vec![Field::Given(Located {
                    value,
                    span: node.span(),
                })])
            }
        }
    }
}

impl<T: Table> Read for Tables<T> {
    type Out = Vec<Field<T>>;
    const EXPECTED: &'static str = "an array of tables";

    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self::Out> {
        if let DeValue::Table(_) = node.get_ref() {
            let message = format!("this must be an array of tables, one for each {}", T::TITLE);
            let hint = format!("write it with two brackets, {}", T::TITLE);
            reader.report(Diagnostic::error(node.span(), message).hint(hint));
            return None;
        }
        Some(reader.items(node.get_ref().as_array()?))
    }
}

impl<K: FromText, T: Read> Read for Named<K, T> {
    type Out = Vec<(Located<K>, Field<T>)>;
    const EXPECTED: &'static str = "a table of named entries";
    const HINT: Option<&'static str> = Some("the name is part of the key, as in `[upstream.NAME]`");

    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self::Out> {
        let mut entries: Vec<_> = node.get_ref().as_table()?.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let read = entries.into_iter().filter_map(|(key, value)| {
            let name = reader.text(key.get_ref(), key.span());
            let field = reader.field(value, || format!("`{}`", key.get_ref()));
            Some((
                Located {
                    value: name?,
                    span: key.span(),
                },
                field,
            ))
        });
        Some(read.collect())
    }
}

impl<A: FromText, B: Table<Out = B>> Read for TextOr<A, B> {
    type Out = Either<A, B>;
    const EXPECTED: &'static str = "a string or a table";

    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self::Out> {
        match node.get_ref() {
            DeValue::String(text) => reader.text(text, node.span()).map(Either::Short),
            _ => B::read(node, reader).map(Either::Table),
        }
    }
}

impl<T: Table<Out = T>> Read for BoolOr<T> {
    type Out = Either<bool, T>;
    const EXPECTED: &'static str = "true, false or a table";

    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self::Out> {
        match node.get_ref() {
            DeValue::Boolean(switch) => Some(Either::Short(*switch)),
            _ => T::read(node, reader).map(Either::Table),
        }
    }
}

/// The schema of a type that is written out wherever it is used.
macro_rules! inline_schema {
    ([$($generics:tt)*] $type:ty, |$generator:ident| $schema:expr) => {
        impl<$($generics)*> JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                std::any::type_name::<Self>().into()
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}
pub(super) use inline_schema;

inline_schema!([T: Read + JsonSchema] Field<T>, |generator| generator.subschema_for::<T>());
inline_schema!([T: FromText] Text<T>, |_generator| {
    let mut schema = json_schema!({ "type": "string" });
    if let Some(pattern) = T::PATTERN {
        schema.insert("pattern".to_owned(), pattern.into());
    }
    if !T::CHOICES.is_empty() {
        schema.insert("enum".to_owned(), T::CHOICES.into());
    }
    schema
});
inline_schema!([const MIN: u64, const MAX: u64] Whole<MIN, MAX>, |_generator| match MAX {
    u64::MAX => json_schema!({ "type": "integer", "minimum": MIN }),
    _ => json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX }),
});
inline_schema!([T: JsonSchema] List<T>, |generator| {
    json_schema!({ "type": "array", "items": generator.subschema_for::<T>() })
});
inline_schema!([T: JsonSchema] Tables<T>, |generator| {
    json_schema!({ "type": "array", "items": generator.subschema_for::<T>() })
});
inline_schema!([T: JsonSchema] OneOrMany<T>, |generator| {
    let one = generator.subschema_for::<T>();
    json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
});
inline_schema!([K, T: JsonSchema] Named<K, T>, |generator| {
    json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<T>() })
});
inline_schema!([A: FromText, B: JsonSchema] TextOr<A, B>, |generator| {
    let text = generator.subschema_for::<Text<A>>();
    json_schema!({ "anyOf": [text, generator.subschema_for::<B>()] })
});
inline_schema!([T: JsonSchema] BoolOr<T>, |generator| {
    json_schema!({ "anyOf": [{ "type": "boolean" }, generator.subschema_for::<T>()] })
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_typing_mistakes() {
        let check = |a: &str, b: &str, expected: usize| {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        };
        check("", "", 0);
        check("host", "host", 0);
        check("hsot", "host", 1);
        check("hos", "host", 1);
        check("Host", "host", 0);
        check("idle_timout", "idle_timeout", 1);
        check("abc", "", 3);
    }

    #[test]
    fn only_what_is_close_is_suggested() {
        let keys = ["bind", "tls", "redirect_to_https"];
        assert_eq!(closest("bnid", keys), Some("bind"));
        assert_eq!(closest("redirect_https", keys), Some("redirect_to_https"));
        assert_eq!(closest("port", keys), None);
        assert_eq!(closest("", keys), None);
    }
}
