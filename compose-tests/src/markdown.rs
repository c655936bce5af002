//! Pages of the documentation, as far as tests ask: blocks of code, code within the text, links, headings.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use crate::stack::repository;

/// A page.
#[derive(Debug, Default)]
pub struct Page {
    /// Its path in the repository.
    pub path: PathBuf,
    pub blocks: Vec<Block>,
    /// What stands between backticks in the text.
    pub codes: Vec<Mention>,
    /// Where links and pictures lead to.
    pub links: Vec<Mention>,
    /// What links to headings say behind `#`.
    pub anchors: BTreeSet<String>,
}

/// A block of code.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The line of the page that it begins at.
    pub line: usize,
    /// What stands behind the fence; empty for a block that is only indented.
    pub language: String,
    pub text: String,
}

/// Something that a page says.
#[derive(Debug, PartialEq, Eq)]
pub struct Mention {
    pub line: usize,
    pub text: String,
}

/// Returns the pages: README.md, and those of `docs/`.
pub fn pages() -> Vec<Page> {
    let mut paths = vec![PathBuf::from("README.md")];
    for folder in ["docs", "docs/decisions"] {
        let entries = fs::read_dir(repository().join(folder)).expect("the documentation can be listed").flatten();
        paths.extend(entries.map(|entry| Path::new(folder).join(entry.file_name())).filter(|path| is_page(path)));
    }
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

impl Page {
    /// Returns the name by which test data knows the page: that of its file.
    pub fn name(&self) -> &str {
        self.path.file_stem().and_then(|name| name.to_str()).expect("pages have names")
    }

    fn read(path: &Path) -> Page {
        let text = fs::read_to_string(repository().join(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Page { path: path.to_owned(), ..Page::parse(&text) }
    }

    fn parse(text: &str) -> Page {
        let mut page = Page::default();
        // Of the block or heading that is being read.
        let (mut block, mut heading) = (None, None);
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            let line = text[..range.start].matches('\n').count() + 1;
            let mention = |what: &str| Mention { line, text: what.to_owned() };
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    let language = match kind {
                        CodeBlockKind::Fenced(language) => language.to_string(),
                        CodeBlockKind::Indented => String::new(),
                    };
                    block = Some(Block { line, language, text: String::new() });
                }
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => page.anchors.extend(heading.take().map(|text| anchor(&text))),
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(mention(&dest_url));
                }
                Event::Text(part) => {
                    if let Some(text) = block.as_mut().map(|block| &mut block.text).or(heading.as_mut()) {
                        text.push_str(&part);
                    }
                }
                Event::Code(code) => {
                    if let Some(text) = &mut heading {
                        text.push_str(&code);
                    }
                    page.codes.push(mention(&code));
                }
                _ => {}
            }
        }
        page
    }
}

/// Returns what forges make of a heading, for links to it.
fn anchor(heading: &str) -> String {
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    heading
        .chars()
        .filter(kept)
        .flat_map(char::to_lowercase)
        .map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_taken_apart() {
        let page = Page::parse(
            "# `up` and down\n\nSee [it](plan.md#why) and `--flag`.\n\n```sh\nrcompose up\n```\n\n    $ old\n\n| `a\\|b` |\n|---|\n",
        );
        let block = |line, language: &str, text: &str| Block { line, language: language.into(), text: text.into() };
        assert_eq!(page.blocks, [block(5, "sh", "rcompose up\n"), block(9, "", "$ old\n")]);
        assert_eq!(page.links, [Mention { line: 3, text: "plan.md#why".to_owned() }]);
        assert_eq!(page.codes.iter().map(|code| code.text.as_str()).collect::<Vec<_>>(), ["up", "--flag", "a|b"]);
        assert_eq!(page.anchors, BTreeSet::from(["up-and-down".to_owned()]));
    }
}
