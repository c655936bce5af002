//! YAML text → trees with places.
//!
//! `saphyr-parser` gives events; this module makes trees of them that hold what Go's yaml.v3 would have made, applies merge
//! keys, and notes where `!reset` and `!override` stand. Aliases are expanded under a budget, and nesting is bounded, so that a
//! hostile file ends in an error and not in the machine's memory.

pub mod scalar;
mod syntax;

use std::collections::{BTreeSet, HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, Span as ParserSpan, Tag};

use super::diagnostic::Diagnostic;
use super::node::{Map, Node, Value};
use super::source::{Sources, Span};

/// How deep collections may be nested. The spaces before the lines grow with the square of it.
const DEEPEST: usize = 1_000;
/// How many values a document may have as it is written; each takes a few hundred bytes of memory.
const MOST_VALUES: usize = 100_000;
/// How many values aliases may add: so many times what the document has, but not less and not more than these numbers.
const EXPANDED_TIMES: usize = 50;
const EXPANDED_VALUES: usize = 20_000;
const MOST_EXPANDED_VALUES: usize = 200_000;
/// So many bytes of text that an alias repeats count as one value.
const VALUE_BYTES: usize = 128;
/// How many bytes may be read again because of [`Indentation`], in files that are not small.
const REREAD: usize = 2 << 20;
const REREAD_TIMES: usize = 20;

/// One document of a file.
#[derive(Debug)]
pub struct Document {
    /// The tree.
    pub root: Node,
    /// Paths whose earlier values are to be dropped (`!reset`, `!override`).
    pub resets: Vec<Vec<String>>,
    /// How deep the collections are nested.
    pub depth: usize,
}

/// Reads all documents of a file that is in `sources`.
///
/// `deep_stack` says whether this thread has room for recursion over any tree.
///
/// # Errors
/// What makes the file unreadable as YAML; the first such fault, since nothing behind it can be trusted.
pub fn parse(sources: &Sources, file: u32, deep_stack: bool) -> Result<Vec<Document>, ParseError> {
    let Some(source) = sources.file(file) else { return Ok(Vec::new()) };
    let text = source.text.as_str();
    check_characters(sources, file, text)?;
    let mut builder = Builder {
        sources,
        file,
        deep_stack,
        text,
        offsets: Offsets::new(text),
        nodes: Vec::new(),
        anchors: HashMap::new(),
        too_far_left: None,
    };
    let mut indentation = Indentation::default();
    let mut edited = None;
    let mut again = 0;
    loop {
        match builder.run(edited.as_deref().unwrap_or(text)) {
            Err(ParseError::Fault(fault)) => {
                // Each time all is read from the start again: only so often.
                again += 1;
                let exhausted = again > REREAD_TIMES && again * text.len() > REREAD;
                if exhausted || !builder.too_far_left.take().is_some_and(|at| indentation.add(text, at)) {
                    return Err(ParseError::Fault(fault));
                }
                let (new, offsets) = indentation.apply(text);
                builder.offsets = offsets;
                edited = Some(new);
            }
            result => return result,
        }
    }
}

/// Spaces that are put before lines for the parser's sake.
///
/// Inside brackets and quotes indentation means nothing to Docker Compose; files have their closing brackets where they like.
#[derive(Default)]
struct Indentation {
    /// Byte offsets of the starts of lines.
    lines: BTreeSet<usize>,
}

impl Indentation {
    /// Notes the line, or the lines of the quoted text, at an offset; false where nothing is left to be done.
    fn add(&mut self, text: &str, at: usize) -> bool {
        let before = self.lines.len();
        let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let quote = text[at..].bytes().next().filter(|byte| matches!(byte, b'"' | b'\''));
        if let Some(quote) = quote {
            let mut escaped = false;
            for (offset, byte) in text.bytes().enumerate().skip(at + 1) {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if quote == b'"' => escaped = true,
                    _ if byte == quote => break,
                    b'\n' => {
                        self.lines.insert(offset + 1);
                    }
                    _ => {}
                }
            }
        }
        if text[line_start..at].trim().is_empty() {
            self.lines.insert(line_start);
        }
        self.lines.len() > before && self.lines.len() < 10_000
    }

    /// The text with the spaces, and where its characters stand in the file.
    fn apply(&self, text: &str) -> (String, Offsets) {
        let deepest =
            text.lines().map(|line| line.len() - line.trim_start_matches(' ').len()).max().unwrap_or(0).min(1_000);
        let mut edited = String::with_capacity(text.len() + self.lines.len() * (deepest + 1));
        let mut table = Vec::with_capacity(edited.capacity() + 1);
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        for (at, c) in text.char_indices() {
            if self.lines.contains(&at) {
                for _ in 0..=deepest {
                    edited.push(' ');
                    table.push(offset(at));
                }
            }
            edited.push(c);
            table.push(offset(at));
        }
        table.push(offset(text.len()));
        (edited, Offsets::Table(table))
    }
}

/// Why there is no tree.
#[derive(Debug)]
pub enum ParseError {
    /// The file is wrong.
    Fault(Box<Diagnostic>),
    /// The file is nested so deeply that it must be read with [`deep::run`](super::deep::run).
    NeedsStack,
}

impl From<Box<Diagnostic>> for ParseError {
    fn from(diagnostic: Box<Diagnostic>) -> Self {
        Self::Fault(diagnostic)
    }
}

/// Decodes a file's bytes: UTF-8, or UTF-16 with a byte order mark. Returns the text and the offset of the first fault.
pub fn decode(bytes: &[u8]) -> (String, Option<usize>) {
    let wide = |unit: fn([u8; 2]) -> u16| {
        let units = bytes[2..].chunks(2).map(move |pair| unit([pair[0], pair.get(1).copied().unwrap_or(0)]));
        let text: String = char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        let fault = text.find(char::REPLACEMENT_CHARACTER);
        (text, fault)
    };
    match bytes {
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes),
        _ => {
            let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
            match std::str::from_utf8(bytes) {
                Ok(text) => (text.to_owned(), None),
                Err(error) => (String::from_utf8_lossy(bytes).into_owned(), Some(error.valid_up_to())),
            }
        }
    }
}

/// Refuses characters that YAML does not allow.
fn check_characters(sources: &Sources, file: u32, text: &str) -> Result<(), Box<Diagnostic>> {
    let allowed = |c: char| {
        matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
            && c != '\u{feff}'
    };
    let Some((at, c)) = text.char_indices().find(|(_, c)| !allowed(*c)) else { return Ok(()) };
    let span = Span::new(file, at, at + c.len_utf8());
    Err(Box::new(
        Diagnostic::error("yaml", format!("control characters are not allowed in YAML (found U+{:04X})", c as u32))
            .label(sources, span, "here")
            .help("write it as an escape in double quotes, such as \"\\0\", if the value really needs it"),
    ))
}

/// From character numbers to byte offsets.
enum Offsets {
    /// They are the same.
    Ascii(usize),
    /// The byte offset of each character, and of the end.
    Table(Vec<u32>),
}

impl Offsets {
    fn new(text: &str) -> Self {
        if text.is_ascii() {
            return Self::Ascii(text.len());
        }
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self::Table(text.char_indices().map(|(at, _)| offset(at)).chain([offset(text.len())]).collect())
    }

    fn byte(&self, character: usize) -> usize {
        match self {
            Self::Ascii(length) => character.min(*length),
            Self::Table(table) => table.get(character).or(table.last()).map_or(0, |offset| *offset as usize),
        }
    }
}

/// A value as it is written: aliases and tags are still there.
struct Raw {
    kind: RawKind,
    span: Span,
    tag: RawTag,
}

enum RawKind {
    Scalar { text: String, plain: bool },
    List(Vec<usize>),
    Map(Vec<(usize, usize)>),
    Alias(usize),
}

#[derive(Clone, PartialEq)]
enum RawTag {
    None,
    /// `!`
    NonSpecific,
    Reset,
    Override,
    /// `!!name`
    Core(String),
    Other,
}

struct Builder<'s> {
    sources: &'s Sources,
    file: u32,
    deep_stack: bool,
    /// The file's text.
    text: &'s str,
    offsets: Offsets,
    /// All values of the document; they refer to each other by number.
    nodes: Vec<Raw>,
    anchors: HashMap<usize, usize>,
    /// Where the parser found something inside brackets or quotes to stand too far left.
    too_far_left: Option<usize>,
}

impl Builder<'_> {
    fn error(&self, message: impl Into<String>, span: Span) -> Box<Diagnostic> {
        Box::new(Diagnostic::error("yaml", message).label(self.sources, span, ""))
    }

    fn span(&self, span: ParserSpan) -> Span {
        Span::new(self.file, self.offsets.byte(span.start.index()), self.offsets.byte(span.end.index()))
    }

    fn run(&mut self, text: &str) -> Result<Vec<Document>, ParseError> {
        let mut documents = Vec::new();
        // Collections that are not closed yet; a mapping holds the key that waits for its value.
        let mut open: Vec<(usize, Option<usize>)> = Vec::new();
        let mut depth = 0;
        let mut root = None;
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                let at = self.offsets.byte(error.marker().index());
                if error.info().starts_with("invalid indentation") {
                    self.too_far_left = Some(at);
                }
                Box::new(syntax::error(self.sources, self.file, self.text, at, error.info()))
            })?;
            let place = self.span(span);
            if self.nodes.len() > MOST_VALUES {
                let message = format!("the document has more than {MOST_VALUES} values");
                return Err(self.error(message, place).into());
            }
            let finished = match event {
                Event::DocumentStart(_) => {
                    self.nodes.clear();
                    self.anchors.clear();
                    root = None;
                    depth = 0;
                    continue;
                }
                Event::DocumentEnd => {
                    if depth > super::deep::SHALLOW && !self.deep_stack {
                        return Err(ParseError::NeedsStack);
                    }
                    if let Some(root) = root.take() {
                        documents.push(Resolver::new(self).document(root, depth)?);
                    }
                    continue;
                }
                Event::StreamStart | Event::StreamEnd | Event::Nothing => continue,
                Event::Scalar(content, style, anchor, tag) => {
                    let mut content = content.into_owned();
                    // The last line of a file ends where the file does: what is not there is not part of the text.
                    if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded)
                        && !self.text.ends_with('\n')
                        && self.text[place.start as usize..]
                            .trim_end()
                            .ends_with(content.lines().last().unwrap_or("\0").trim_end())
                        && self.text[(place.end as usize).min(self.text.len())..].trim().is_empty()
                    {
                        content.truncate(content.trim_end_matches('\n').len());
                    }
                    self.add(
                        RawKind::Scalar { text: content, plain: style == ScalarStyle::Plain },
                        place,
                        anchor,
                        tag.as_deref(),
                    )
                }
                Event::Alias(anchor) => {
                    let Some(target) = self.anchors.get(&anchor).copied() else {
                        return Err(self.error("unknown anchor", place).into());
                    };
                    self.add(RawKind::Alias(target), place, 0, None)
                }
                Event::SequenceStart(anchor, tag) => {
                    let node = self.add(RawKind::List(Vec::new()), place, anchor, tag.as_deref());
                    open.push((node, None));
                    depth = depth.max(open.len());
                    if open.len() > DEEPEST {
                        return Err(self.error(format!("nested more than {DEEPEST} levels deep"), place).into());
                    }
                    continue;
                }
                Event::MappingStart(anchor, tag) => {
                    let node = self.add(RawKind::Map(Vec::new()), place, anchor, tag.as_deref());
                    open.push((node, None));
                    depth = depth.max(open.len());
                    if open.len() > DEEPEST {
                        return Err(self.error(format!("nested more than {DEEPEST} levels deep"), place).into());
                    }
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let Some((node, _)) = open.pop() else { continue };
                    let end = self.trimmed_end(self.nodes[node].span, place);
                    self.nodes[node].span.end = end;
                    node
                }
            };
            match open.last_mut() {
                None => root = Some(finished),
                Some((parent, key)) => match (&mut self.nodes[*parent].kind, key.take()) {
                    (RawKind::List(items), _) => items.push(finished),
                    (RawKind::Map(entries), Some(key)) => entries.push((key, finished)),
                    (RawKind::Map(_), None) => *key = Some(finished),
                    _ => {}
                },
            }
        }
        Ok(documents)
    }

    fn add(&mut self, kind: RawKind, span: Span, anchor: usize, tag: Option<&Tag>) -> usize {
        let tag = match tag {
            None => RawTag::None,
            Some(tag) if tag.is_yaml_core_schema() => RawTag::Core(tag.suffix.clone()),
            Some(tag) => match (tag.handle.as_str(), tag.suffix.as_str()) {
                ("!", "reset") => RawTag::Reset,
                ("!", "override") => RawTag::Override,
                ("" | "!", "" | "!") => RawTag::NonSpecific,
                _ => RawTag::Other,
            },
        };
        self.nodes.push(Raw { kind, span, tag });
        let number = self.nodes.len() - 1;
        if anchor != 0 {
            self.anchors.insert(anchor, number);
        }
        number
    }

    /// The end of a collection without the blank space and comments that the parser counts to it.
    fn trimmed_end(&self, start: Span, end: Span) -> u32 {
        let content = self.text.get(start.start as usize..end.end as usize).unwrap_or("");
        u32::try_from(content.trim_end().len()).map_or(start.end, |length| start.start + length)
    }
}

/// Makes the tree of a document from its raw values.
struct Resolver<'b, 's> {
    builder: &'b Builder<'s>,
    path: Vec<String>,
    resets: Vec<Vec<String>>,
    /// Aliased values that are being expanded: one inside itself is a cycle.
    expanding: Vec<usize>,
    budget: usize,
    /// Where anchors are used, as far as names with dots are part of it.
    dotted: HashMap<usize, BTreeSet<String>>,
    has_dots: bool,
}

impl<'b, 's> Resolver<'b, 's> {
    fn new(builder: &'b Builder<'s>) -> Self {
        let values = builder.nodes.len();
        let budget = values + (values * EXPANDED_TIMES).clamp(EXPANDED_VALUES, MOST_EXPANDED_VALUES);
        Self {
            builder,
            path: Vec::new(),
            resets: Vec::new(),
            expanding: Vec::new(),
            budget,
            dotted: HashMap::new(),
            has_dots: false,
        }
    }

    fn document(mut self, root: usize, depth: usize) -> Result<Document, Box<Diagnostic>> {
        let place = self.builder.nodes[root].span;
        let root = self.node(root)?.unwrap_or_else(|| Node::new(Value::Null, place));
        Ok(Document { root, resets: self.resets, depth })
    }

    /// The value with this number; None where it is `!reset`.
    fn node(&mut self, number: usize) -> Result<Option<Node>, Box<Diagnostic>> {
        let builder = self.builder;
        let raw = &builder.nodes[number];
        let cost = match &raw.kind {
            RawKind::Scalar { text, .. } if !self.expanding.is_empty() => 1 + text.len() / VALUE_BYTES,
            _ => 1,
        };
        self.budget = self.budget.checked_sub(cost).ok_or_else(|| {
            Box::new(
                Diagnostic::error("alias-bomb", "the file's aliases expand to too many values")
                    .label(builder.sources, raw.span, "expanded too often")
                    .help("anchors that contain aliases of other anchors multiply; write the repeated part out where it is used"),
            )
        })?;
        if let RawKind::Alias(target) = raw.kind {
            if self.expanding.contains(&target) || self.expanding.len() > 100 {
                return Err(builder.error("an anchor contains an alias of itself", raw.span));
            }
            self.check_paths(target, raw.span)?;
            self.expanding.push(target);
            let node = self.node(target)?;
            self.expanding.pop();
            return Ok(node);
        }
        match raw.tag {
            RawTag::Reset => {
                self.resets.push(self.path.clone());
                return Ok(None);
            }
            RawTag::Override => self.resets.push(self.path.clone()),
            _ => {}
        }
        let value = match &raw.kind {
            RawKind::Scalar { text, plain } => self.scalar(text, *plain, raw)?,
            RawKind::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    self.path.push(index.to_string());
                    let node = self.node(*item)?;
                    self.path.pop();
                    list.extend(node);
                }
                Value::List(list)
            }
            RawKind::Map(entries) => Value::Map(self.map(entries, raw.span)?),
            RawKind::Alias(_) => Value::Null,
        };
        Ok(Some(Node::new(value, raw.span)))
    }

    /// Refuses one anchor at a path and at another that begins with it: in Docker Compose's eyes a cycle, also where a dot is only
    /// part of a service's name.
    fn check_paths(&mut self, target: usize, span: Span) -> Result<(), Box<Diagnostic>> {
        let dots = self.path.iter().any(|key| key.contains('.'));
        if dots {
            self.has_dots = true;
        }
        let path = self.path.join(".");
        let seen = self.dotted.entry(target).or_default();
        let service = |path: &str| path.split('.').skip_while(|part| *part != "services").nth(1).map(ToOwned::to_owned);
        // Without dots in a key nothing but a real cycle could clash, and that is found by other means.
        let clash = if self.has_dots {
            let own = service(&path);
            let clashes = |other: &&String| service(other) == own;
            let outer = path.match_indices('.').filter_map(|(dot, _)| seen.get(&path[..dot])).find(clashes);
            let inside = format!("{path}.");
            let mut inner = seen.range(inside.clone()..).take_while(|other| other.starts_with(&inside));
            outer.or_else(|| inner.find(clashes)).cloned()
        } else {
            None
        };
        seen.insert(path.clone());
        match clash {
            Some(other) => Err(Box::new(
                Diagnostic::error(
                    "alias-cycle",
                    format!("cycle detected: node at path {path} references node at path {other}"),
                )
                .label(self.builder.sources, span, "this alias")
                .help("Docker Compose refuses this when names with dots begin with each other; rename one of them"),
            )),
            None => Ok(()),
        }
    }

    fn scalar(&self, text: &str, plain: bool, raw: &Raw) -> Result<Value, Box<Diagnostic>> {
        let wrong = |name: &str| self.builder.error(format!("cannot read {text:?} as !!{name}"), raw.span);
        Ok(match &raw.tag {
            RawTag::None | RawTag::NonSpecific if plain => scalar::resolve(text),
            RawTag::Core(name) => match (name.as_str(), scalar::resolve(text)) {
                ("binary", _) => Value::String(decode_base64(text).ok_or_else(|| wrong(name))?),
                ("float", Value::Int(number)) =>
                {
                    #[expect(clippy::cast_precision_loss, reason = "what a float tag on a whole number asks for")]
                    Value::Float(number as f64)
                }
                ("float", value @ Value::Float(_))
                | ("int", value @ (Value::Int(_) | Value::Uint(_)))
                | ("bool", value @ Value::Bool(_))
                | ("null", value @ Value::Null)
                | ("timestamp", value @ Value::Time(_)) => value,
                ("float" | "int" | "bool" | "null" | "timestamp", _) => return Err(wrong(name)),
                _ => Value::String(text.to_owned()),
            },
            // A tag that nobody knows keeps the scalar as it is written.
            _ => Value::String(text.to_owned()),
        })
    }

    fn map(&mut self, entries: &[(usize, usize)], span: Span) -> Result<Map, Box<Diagnostic>> {
        let builder = self.builder;
        let mut map = Map::with_capacity(entries.len());
        let mut seen: HashMap<&str, Span> = HashMap::with_capacity(entries.len());
        let mut merges = Vec::new();
        for (key, value) in entries {
            let mut raw_key = &builder.nodes[*key];
            let place = raw_key.span;
            if let RawKind::Alias(target) = raw_key.kind {
                raw_key = &builder.nodes[target];
            }
            let RawKind::Scalar { text, plain } = &raw_key.kind else {
                let mut error = builder.error("a key must be a string, not a collection", place);
                let before = &builder.text[..(place.start as usize).min(builder.text.len())];
                if before.ends_with('{') && builder.text[before.len()..].starts_with('{') {
                    error.help.push("quote a value that begins with `{{`".to_owned());
                }
                return Err(error);
            };
            if let Some(first) = seen.insert(text, place) {
                return Err(Box::new(
                    Diagnostic::error("duplicate-key", format!("mapping key {text:?} already defined"))
                        .label(builder.sources, place, "defined again here")
                        .label(builder.sources, first, "first defined here")
                        .help("keep one of them; in a list of values both could stay"),
                ));
            }
            if *plain && text == "<<" && matches!(raw_key.tag, RawTag::None | RawTag::NonSpecific) {
                merges.push(*value);
                continue;
            }
            match self.scalar(text, *plain, raw_key)? {
                Value::String(_) => {}
                other => {
                    return Err(Box::new(
                        Diagnostic::error("non-string-key", format!("non-string key: {text:?} is {}", other.kind()))
                            .label(builder.sources, place, "this key")
                            .help(format!("quote it: \"{text}\"")),
                    ));
                }
            }
            self.path.push(text.clone());
            let node = self.node(*value)?;
            self.path.pop();
            if let Some(mut node) = node {
                node.key = place;
                map.insert(text.clone(), node);
            }
        }
        for merge in merges {
            self.merge(merge, &mut map, span)?;
        }
        Ok(map)
    }

    /// Applies one merge key: what the mapping has itself wins, then the first of the merged mappings.
    fn merge(&mut self, number: usize, map: &mut Map, span: Span) -> Result<(), Box<Diagnostic>> {
        let place = self.builder.nodes[number].span;
        let wrong = |at: Span| self.builder.error("a merge key (<<) takes a mapping or a list of mappings", at);
        let Some(merged) = self.node(number)? else { return Ok(()) };
        let sources = match merged.value {
            Value::Map(source) => vec![source],
            Value::List(items) => items
                .into_iter()
                .map(|item| match item.value {
                    Value::Map(source) => Ok(source),
                    _ => Err(wrong(item.span)),
                })
                .collect::<Result<_, _>>()?,
            _ => return Err(wrong(place.or(span))),
        };
        for source in sources {
            for (key, node) in source {
                map.entry(key).or_insert(node);
            }
        }
        Ok(())
    }
}

fn decode_base64(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).unwrap_or(0));
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
