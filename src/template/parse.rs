//! From pieces and tokens to a tree.

use super::TemplateError;
use super::function;
use super::lex::{self, Located, Piece, Token, error, pieces};

/// How deep actions and parentheses may be nested.
const MAX_DEPTH: usize = 100;

/// A part of a template.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    /// Prints what the pipeline gives, unless it declares a variable.
    Print(Pipe),
    If(Pipe, Vec<Node>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
    Range(Pipe, Vec<Node>, Vec<Node>),
    Break,
    Continue,
}

/// Commands, each of which gets the result of the one before as its last argument.
#[derive(Debug, Clone)]
pub(super) struct Pipe {
    pub(super) variables: Vec<String>,
    /// The variables exist and get another value.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

/// A function or a value, and arguments.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) operands: Vec<Operand>,
    /// Where it is and how it was written, for errors.
    pub(super) at: usize,
    pub(super) line: usize,
    pub(super) source: String,
}

/// What can be an argument.
#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub(super) base: Base,
    /// Names that are picked from it, one after the other.
    pub(super) fields: Vec<String>,
    /// Where the first of the names begins.
    pub(super) at: usize,
    pub(super) line: usize,
    pub(super) source: String,
}

#[derive(Debug, Clone)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Function(String),
    Literal(serde_json::Value),
    Pipe(Box<Pipe>),
}

pub(super) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { text, pieces: pieces(text)?, at: 0, variables: vec![String::new()], loops: 0, depth: 0 };
    let (nodes, end) = parser.nodes()?;
    match end {
        Stop::Eof => Ok(nodes),
        Stop::End(at) => Err(error(text, at, "unexpected {{end}}")),
        Stop::Else(_, at) => Err(error(text, at, "unexpected {{else}}")),
    }
}

struct Parser<'t> {
    text: &'t str,
    pieces: Vec<Piece<'t>>,
    at: usize,
    /// The names of the variables that can be seen here.
    variables: Vec<String>,
    loops: usize,
    depth: usize,
}

/// What ended a list of nodes.
enum Stop {
    Eof,
    End(usize),
    /// The words after `else`.
    Else(Vec<Located>, usize),
}

impl Parser<'_> {
    fn nodes(&mut self) -> Result<(Vec<Node>, Stop), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.get(self.at) {
            let (action, offset) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text((*text).to_owned()));
                    self.at += 1;
                    continue;
                }
                Piece::Action(action, offset) => (*action, *offset),
            };
            self.at += 1;
            let mut words = lex::tokens(self.text, action, offset)?;
            let keyword = match words.first().map(|word| &word.token) {
                Some(Token::Word(word)) => word.clone(),
                _ => String::new(),
            };
            match keyword.as_str() {
                "end" => return Ok((nodes, Stop::End(offset))),
                "else" => {
                    words.remove(0);
                    return Ok((nodes, Stop::Else(words, offset)));
                }
                "if" | "with" | "range" => nodes.push(self.block(&keyword, &words[1..], offset)?),
                "break" | "continue" if self.loops == 0 => {
                    return Err(error(self.text, offset, format!("{{{{{keyword}}}}} outside {{{{range}}}}")));
                }
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                "define" | "block" | "template" => {
                    return Err(error(self.text, offset, format!("{{{{{keyword}}}}} is not supported")));
                }
                _ => nodes.push(Node::Print(self.whole_pipe(&words, offset, false)?)),
            }
        }
        Ok((nodes, Stop::Eof))
    }

    /// Reads a block to its `end`; `words` are those of its beginning.
    fn block(&mut self, keyword: &str, words: &[Located], offset: usize) -> Result<Node, TemplateError> {
        self.deeper(offset)?;
        let visible = self.variables.len();
        let pipe = self.whole_pipe(words, offset, keyword == "range")?;
        self.loops += usize::from(keyword == "range");
        let (body, end) = self.nodes()?;
        self.loops -= usize::from(keyword == "range");
        let otherwise = match end {
            Stop::Eof => return Err(error(self.text, self.text.len(), "unexpected EOF")),
            Stop::End(_) => Vec::new(),
            Stop::Else(words, at) => match words.split_first() {
                None => {
                    let (otherwise, end) = self.nodes()?;
                    match end {
                        Stop::End(_) => otherwise,
                        Stop::Eof => return Err(error(self.text, self.text.len(), "unexpected EOF")),
                        Stop::Else(_, at) => return Err(error(self.text, at, "expected end; found {{else}}")),
                    }
                }
                // `else if` shares the end with what it belongs to.
                Some((Located { token: Token::Word(word), .. }, rest)) if word == keyword && keyword != "range" => {
                    vec![self.block(keyword, rest, at)?]
                }
                Some(_) => return Err(error(self.text, at, "unexpected words after {{else}}")),
            },
        };
        self.variables.truncate(visible);
        self.depth -= 1;
        Ok(match keyword {
            "if" => Node::If(pipe, body, otherwise),
            "with" => Node::With(pipe, body, otherwise),
            _ => Node::Range(pipe, body, otherwise),
        })
    }

    fn deeper(&mut self, at: usize) -> Result<(), TemplateError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(error(self.text, at, "max nesting depth exceeded"));
        }
        Ok(())
    }

    fn whole_pipe(&mut self, words: &[Located], offset: usize, range: bool) -> Result<Pipe, TemplateError> {
        let mut rest = words;
        let pipe = self.pipe(&mut rest, offset, range)?;
        match rest.first() {
            None => Ok(pipe),
            Some(word) => Err(error(self.text, word.start, "unexpected right paren")),
        }
    }

    fn pipe(&mut self, rest: &mut &[Located], offset: usize, range: bool) -> Result<Pipe, TemplateError> {
        self.deeper(offset)?;
        let mut declared = Vec::new();
        let mut assigns = false;
        let name = |at: usize, rest: &[Located]| match rest.get(at).map(|word| &word.token) {
            Some(Token::Variable(name)) => Some(name.clone()),
            _ => None,
        };
        let is = |at: usize, rest: &[Located], token: &Token| rest.get(at).is_some_and(|word| word.token == *token);
        if let Some(first) = name(0, rest) {
            if is(1, rest, &Token::Declare) || is(1, rest, &Token::Assign) {
                assigns = is(1, rest, &Token::Assign);
                declared.push(first);
                *rest = &rest[2..];
            } else if let (true, true, Some(second)) = (range, is(1, rest, &Token::Comma), name(2, rest)) {
                if !is(3, rest, &Token::Declare) && !is(3, rest, &Token::Assign) {
                    return Err(error(self.text, offset, "range can only initialize variables"));
                }
                assigns = is(3, rest, &Token::Assign);
                declared.extend([first, second]);
                *rest = &rest[4..];
            }
        }
        let mut commands = vec![self.command(rest, offset)?];
        while is(0, rest, &Token::Pipe) {
            *rest = &rest[1..];
            commands.push(self.command(rest, offset)?);
        }
        for name in &declared {
            if assigns {
                self.check_variable(name, offset)?;
            } else {
                self.variables.push(name.clone());
            }
        }
        self.depth -= 1;
        Ok(Pipe { variables: declared, assigns, commands })
    }

    fn check_variable(&self, name: &String, at: usize) -> Result<(), TemplateError> {
        if self.variables.contains(name) {
            return Ok(());
        }
        Err(error(self.text, at, format!("undefined variable \"${name}\"")))
    }

    fn command(&mut self, rest: &mut &[Located], offset: usize) -> Result<Command, TemplateError> {
        let mut operands = Vec::new();
        let start = rest.first().map_or(offset, |word| word.start);
        let mut end = start;
        while let Some(operand) = self.operand(rest, &mut end)? {
            operands.push(operand);
        }
        if operands.is_empty() {
            return Err(error(self.text, offset, "missing value for command"));
        }
        let line = error(self.text, start, "").line;
        Ok(Command { operands, at: start, line, source: self.text[start..end].to_owned() })
    }

    fn operand(&mut self, rest: &mut &[Located], end: &mut usize) -> Result<Option<Operand>, TemplateError> {
        let Some((word, after)) = rest.split_first() else { return Ok(None) };
        let mut fields = Vec::new();
        let mut at = word.start;
        let base = match &word.token {
            Token::Close | Token::Pipe => return Ok(None),
            Token::Comma | Token::Declare | Token::Assign => {
                return Err(error(self.text, word.start, "unexpected sign in operand"));
            }
            Token::Field(name) => {
                if !name.is_empty() {
                    fields.push(name.clone());
                }
                Base::Dot
            }
            Token::Variable(name) => {
                self.check_variable(name, word.start)?;
                Base::Variable(name.clone())
            }
            Token::Word(name) => match name.as_str() {
                "true" => Base::Literal(true.into()),
                "false" => Base::Literal(false.into()),
                "nil" => Base::Literal(serde_json::Value::Null),
                name if function::is_known(name) => Base::Function(name.to_owned()),
                name => return Err(error(self.text, word.start, format!("function {name:?} not defined"))),
            },
            Token::Text(text) => Base::Literal(text.clone().into()),
            Token::Integer(number) => Base::Literal((*number).into()),
            Token::Float(number) => Base::Literal((*number).into()),
            Token::Open => {
                *rest = after;
                let pipe = self.pipe(rest, word.start, false)?;
                if rest.first().is_none_or(|word| word.token != Token::Close) {
                    return Err(error(self.text, word.start, "unclosed left paren"));
                }
                Base::Pipe(Box::new(pipe))
            }
        };
        *end = rest[0].end;
        *rest = &rest[1..];
        while let Some(Located { token: Token::Field(name), spaced: false, start, end: field_end }) = rest.first()
            && !name.is_empty()
        {
            if fields.is_empty() {
                at = *start;
            }
            fields.push(name.clone());
            *end = *field_end;
            *rest = &rest[1..];
        }
        let source = self.text[word.start..*end].to_owned();
        let line = error(self.text, word.start, "").line;
        Ok(Some(Operand { base, fields, at, line, source }))
    }
}
