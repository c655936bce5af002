//! Executes a tree.

use serde_json::Value;

use super::TemplateError;
use super::function;
use super::parse::{Base, Command, Node, Operand, Pipe};
use super::print::{self, NO_VALUE};
use super::shape::{self, Shape};

/// Longest output, in bytes: nested loops grow fast.
const MAX_OUTPUT: usize = 64 << 20;

/// A value on its way: nothing, or JSON and what Go would have it be.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) value: Option<Value>,
    pub(super) shape: Shape,
}

impl Item {
    pub(super) fn new(value: impl Into<Value>) -> Self {
        Self { value: Some(value.into()), shape: Shape::Plain }
    }

    /// Tells whether Go takes it for true.
    pub(super) fn is_true(&self) -> bool {
        match &self.value {
            None | Some(Value::Null) => false,
            Some(Value::Bool(value)) => *value,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            // A structure is true; an empty map is not.
            Some(Value::Object(members)) => !members.is_empty() || self.shape == Shape::Plain,
        }
    }

    pub(super) fn text(&self) -> String {
        self.value.as_ref().map_or_else(|| NO_VALUE.to_owned(), |value| print::value(value, self.shape))
    }
}

/// What a node makes of the loop around it.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Run {
    output: String,
    /// The variables that can be seen, the latest last; the first is `$`.
    variables: Vec<(String, Item)>,
}

pub(super) fn execute(nodes: &[Node], value: &Value) -> Result<String, TemplateError> {
    let root = Item::new(value.clone());
    let mut run = Run { output: String::new(), variables: vec![(String::new(), root.clone())] };
    run.nodes(nodes, &root)?;
    Ok(run.output)
}

fn failed(command: &Command, message: impl Into<String>) -> TemplateError {
    TemplateError { at: command.at, line: command.line, part: Some(command.source.clone()), message: message.into() }
}

impl Run {
    fn nodes(&mut self, nodes: &[Node], dot: &Item) -> Result<Flow, TemplateError> {
        for node in nodes {
            let visible = self.variables.len();
            let flow = match node {
                Node::Text(text) => {
                    self.output.push_str(text);
                    Flow::On
                }
                Node::Print(pipe) => {
                    let item = self.pipe(pipe, dot)?;
                    if pipe.variables.is_empty() {
                        self.output.push_str(&item.text());
                    }
                    if self.output.len() > MAX_OUTPUT {
                        return Err(failed(&pipe.commands[0], "the output is too long"));
                    }
                    // A variable that is declared here can be seen by what follows.
                    continue;
                }
                Node::If(pipe, body, otherwise) => {
                    let holds = self.pipe(pipe, dot)?.is_true();
                    self.nodes(if holds { body } else { otherwise }, dot)?
                }
                Node::With(pipe, body, otherwise) => {
                    let item = self.pipe(pipe, dot)?;
                    if item.is_true() { self.nodes(body, &item)? } else { self.nodes(otherwise, dot)? }
                }
                Node::Range(pipe, body, otherwise) => {
                    self.range(pipe, body, otherwise, dot)?;
                    Flow::On
                }
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            self.variables.truncate(visible);
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn range(&mut self, pipe: &Pipe, body: &[Node], otherwise: &[Node], dot: &Item) -> Result<(), TemplateError> {
        let command = &pipe.commands[0];
        let over = self.commands(pipe, dot)?;
        let pairs: Vec<(Value, Item)> = match over.value {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => {
                items.into_iter().enumerate().map(|(index, item)| (index.into(), Item::new(item))).collect()
            }
            Some(Value::Object(members)) => {
                let mut members = members.into_iter().collect::<Vec<_>>();
                members.sort_by(|(a, _), (b, _)| a.cmp(b));
                let item = |(name, value): (String, Value)| {
                    let shape = shape::of(&name);
                    (name.into(), Item { value: Some(value), shape })
                };
                members.into_iter().map(item).collect()
            }
            Some(Value::Number(number)) if number.as_u64().is_some_and(|count| count <= 1 << 20) => {
                (0..number.as_u64().unwrap_or(0)).map(|index| (index.into(), Item::new(index))).collect()
            }
            Some(other) => {
                return Err(failed(command, format!("range can't iterate over {}", print::value(&other, over.shape))));
            }
        };
        if pairs.is_empty() {
            self.nodes(otherwise, dot)?;
            return Ok(());
        }
        let visible = self.variables.len();
        for (key, item) in pairs {
            match pipe.variables.as_slice() {
                [] => {}
                [value] => self.set(value, item.clone(), pipe.assigns),
                [index, value, ..] => {
                    self.set(index, Item::new(key), pipe.assigns);
                    self.set(value, item.clone(), pipe.assigns);
                }
            }
            let flow = self.nodes(body, &item)?;
            self.variables.truncate(visible);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, item: Item, assigns: bool) {
        let known = self.variables.iter_mut().rev().find(|(known, _)| known == name);
        match known {
            Some((_, value)) if assigns => *value = item,
            _ => self.variables.push((name.to_owned(), item)),
        }
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Item) -> Result<Item, TemplateError> {
        let item = self.commands(pipe, dot)?;
        for name in &pipe.variables {
            self.set(name, item.clone(), pipe.assigns);
        }
        Ok(item)
    }

    fn commands(&mut self, pipe: &Pipe, dot: &Item) -> Result<Item, TemplateError> {
        let mut piped = None;
        for command in &pipe.commands {
            piped = Some(self.command(command, dot, piped)?);
        }
        Ok(piped.expect("a pipeline has a command"))
    }

    fn command(&mut self, command: &Command, dot: &Item, piped: Option<Item>) -> Result<Item, TemplateError> {
        let (first, rest) = command.operands.split_first().expect("a command has an operand");
        if let Base::Function(name) = &first.base
            && first.fields.is_empty()
        {
            // These two look at no more than they have to.
            if name == "and" || name == "or" {
                let mut last = None;
                for operand in rest {
                    let item = self.operand(operand, dot)?;
                    let decided = item.is_true() == (name == "or");
                    last = Some(item);
                    if decided {
                        return Ok(last.expect("it was set just now"));
                    }
                }
                return piped.or(last).ok_or_else(|| failed(command, format!("wrong number of args for {name}")));
            }
            let mut arguments = Vec::with_capacity(rest.len() + 1);
            for operand in rest {
                arguments.push(self.operand(operand, dot)?);
            }
            arguments.extend(piped);
            return function::call(name, &arguments)
                .map_err(|message| failed(command, format!("error calling {name}: {message}")));
        }
        let value = self.operand(first, dot)?;
        let mut arguments = Vec::new();
        for operand in rest {
            arguments.push(self.operand(operand, dot)?);
        }
        arguments.extend(piped);
        match arguments.as_slice() {
            [] => Ok(value),
            // What is a method in Go, such as `.Label "name"`, is a map here.
            [argument] if matches!(value.value, Some(Value::Object(_))) && !first.fields.is_empty() => {
                function::call("index", &[value, argument.clone()]).map_err(|message| failed(command, message))
            }
            _ => Err(failed(command, format!("can't give argument to non-function {}", first.source))),
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Item) -> Result<Item, TemplateError> {
        let mut item = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Literal(value) => Item::new(value.clone()),
            Base::Variable(name) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                found.map_or(Item { value: None, shape: Shape::Plain }, |(_, item)| item.clone())
            }
            Base::Function(name) => function::call(name, &[]).map_err(|message| {
                let message = format!("error calling {name}: {message}");
                TemplateError { at: operand.at, line: operand.line, part: Some(operand.source.clone()), message }
            })?,
            Base::Pipe(pipe) => self.pipe(pipe, dot)?,
        };
        let mut at = operand.at;
        for (index, field) in operand.fields.iter().enumerate() {
            item = pick(item, field).map_err(|message| TemplateError {
                at: if index == 0 { operand.at } else { at },
                line: operand.line,
                part: Some(operand.source.clone()),
                message,
            })?;
            at += field.len() + 1;
        }
        Ok(item)
    }
}

/// Picks a name from a value.
fn pick(item: Item, field: &str) -> Result<Item, String> {
    let of = shape::of(field);
    match item.value {
        Some(Value::Object(mut members)) => match members.shift_remove(field) {
            Some(value) => Ok(Item { value: Some(value), shape: of }),
            None if item.shape == Shape::Map => Ok(Item { value: None, shape: Shape::Plain }),
            None => Err(format!("map has no entry for key {field:?}")),
        },
        // A map that is nil has no entries; from a pointer that is nil, nothing can be had.
        None => Ok(Item { value: None, shape: Shape::Plain }),
        Some(Value::Null) if item.shape == Shape::Map => Ok(Item { value: None, shape: Shape::Plain }),
        Some(Value::Null) => Err(format!("nil pointer evaluating {field}")),
        Some(other) => Err(format!("can't evaluate field {field} in type {}", function::type_name(&other))),
    }
}
