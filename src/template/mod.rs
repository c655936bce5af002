//! Go's `text/template`, as far as people write it after `--format`.
//!
//! Values are JSON: whatever a command has to say is said as a document with Docker's field names, and a template picks
//! from it. Templates come from the user's own command line; still, nothing in here runs for ever or deeper than a bound.
//!
//! Go knows structures from maps and JSON does not. The difference shows where a name is missing (an error, or
//! `<no value>`) and where a value is null (`[]`, `map[]`), so the few names that Docker's structures have for maps and
//! lists are listed here ([`shape`]).
//!
//! Not there: `define`, `block` and `template`, complex numbers, and methods of Go's types.

mod eval;
mod function;
mod lex;
mod parse;
mod print;
mod shape;

use std::fmt;

use serde_json::Value;

/// A template that was understood.
#[derive(Debug, Clone)]
pub struct Template {
    nodes: Vec<parse::Node>,
}

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// Byte offset in the template.
    at: usize,
    line: usize,
    /// The part that failed when the template was executed.
    part: Option<String>,
    message: String,
}

impl std::error::Error for TemplateError {}

impl fmt::Display for TemplateError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, line, part, message } = self;
        match part {
            Some(part) => {
                write!(
                    formatter,
                    "template parsing error: template: :{line}:{at}: executing \"\" at <{part}>: {message}"
                )
            }
            None => write!(formatter, "template parsing error: template: :{line}: {message}"),
        }
    }
}

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { nodes: parse::parse(text)? })
    }

    /// Returns the template's text for a value, which is its `.` and its `$`.
    pub fn execute(&self, value: &Value) -> Result<String, TemplateError> {
        eval::execute(&self.nodes, value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({
            "ID": "abc", "Name": "/shop-web-1", "Size": 1_982_499, "Ratio": 0.5, "Up": true,
            "RepoDigests": ["busybox@sha256:1"], "None": null,
            "Config": {
                "Env": ["PATH=/bin", "A=b"], "Cmd": ["sh", "-c", "a \"b\""], "Entrypoint": null, "Labels": null,
                "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
            },
            "Labels": {"com.example.a": "1", "b": "2"},
            "NetworkSettings": {"Networks": {"shop_default": {"IPAddress": "10.0.0.2"}}, "Ports": {"80/tcp": [{"HostPort": "8080"}]}},
            "Mounts": [{"Type": "bind", "Source": "/a"}, {"Type": "volume", "Source": "/b"}],
            "State": {"Health": null, "Running": false, "ExitCode": 0},
            "RootFS": {"Layers": ["sha256:1", "sha256:2"]},
        })
    }

    fn run(template: &str) -> Result<String, String> {
        Template::parse(template)
            .and_then(|template| template.execute(&document()))
            .map_err(|error| error.to_string().trim_start_matches("template parsing error: ").to_owned())
    }

    #[test]
    fn what_people_write_gives_what_docker_gives() {
        for (template, want) in [
            ("{{.ID}} {{.Size}} {{.Up}} {{.Ratio}}", "abc 1982499 true 0.5"),
            ("{{ .ID }}:{{.Name}}", "abc:/shop-web-1"),
            ("{{json .ID}} {{json .Config.Cmd}}", r#""abc" ["sh","-c","a \"b\""]"#),
            ("{{json .Config.Entrypoint}}", "null"),
            ("{{index .RepoDigests 0}}", "busybox@sha256:1"),
            ("{{.Config.Env}}", "[PATH=/bin A=b]"),
            ("{{.Config.Entrypoint}} {{.Config.Labels}} {{.None}}", "[] map[] <nil>"),
            ("{{.Labels}}", "map[b:2 com.example.a:1]"),
            ("{{range .Config.Env}}{{println .}}{{end}}", "PATH=/bin\nA=b\n"),
            ("{{range $i, $e := .Config.Env}}{{$i}}={{$e}};{{end}}", "0=PATH=/bin;1=A=b;"),
            ("{{range $p, $c := .NetworkSettings.Ports}}{{$p}} {{(index $c 0).HostPort}}{{end}}", "80/tcp 8080"),
            ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "10.0.0.2"),
            (r#"{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}"#, "8080"),
            (r#"{{index .Labels "com.example.a"}}"#, "1"),
            (r#"{{index .Labels "no"}}|{{.Labels.no}}"#, "|<no value>"),
            ("{{.RootFS.Layers}} {{len .RootFS.Layers}}", "[sha256:1 sha256:2] 2"),
            ("{{range .RootFS.Layers}}[{{.}}]{{end}}", "[sha256:1][sha256:2]"),
            (r#"{{range .Mounts}}{{if eq .Type "volume"}}{{.Source}}{{end}}{{end}}"#, "/b"),
            (r#"{{range .Mounts}}{{if ne .Type "bind"}}n{{else if .Source}}s{{else}}e{{end}}{{end}}"#, "sn"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "down"),
            ("{{with .State.Health}}{{.Status}}{{else}}none{{end}}", "none"),
            ("{{with $x := .ID}}{{$x}}{{.}}{{end}}", "abcabc"),
            ("{{range .Nothing.Here}}{{end}}", ""),
        ] {
            if template.contains("Nothing") {
                assert!(run(template).is_err(), "{template}");
            } else {
                assert_eq!(run(template).as_deref(), Ok(want), "{template}");
            }
        }
    }

    #[test]
    fn functions_are_gos_and_dockers() {
        for (template, want) in [
            (r#"{{join .Config.Env ","}}"#, "PATH=/bin,A=b"),
            (r#"{{index (split .Name "-") 1}}"#, "web"),
            ("{{upper .ID}} {{lower \"AB\"}} {{title \"hello world\"}}", "ABC ab Hello World"),
            ("{{slice .Name 1}} {{slice .Name 1 5}}", "shop-web-1 shop"),
            ("{{truncate .Name 5}}|{{pad .ID 1 2}}|", "/shop| abc  |"),
            (
                "{{printf \"%s=%d %v %q %5s|%-5s|%.2f %x %t %%\" .ID .Size .Up .ID \"a\" \"b\" .Ratio 255 true}}",
                "abc=1982499 true \"abc\"     a|b    |0.50 ff true %",
            ),
            ("{{print 1 2 \"a\" \"b\" 3}}", "1 2ab3"),
            ("{{and .Up .ID}} {{or .State.Running .ID}} {{not .Up}}", "abc abc false"),
            (
                "{{eq .ID \"x\" \"abc\"}} {{lt 1 2}} {{ge .Size 5}} {{gt \"b\" \"a\"}} {{le 2 1}}",
                "true true true true false",
            ),
            ("{{.ID | printf \"%s-%s\" \"x\"}} {{.Config.Env | len}} {{.Config | json | len}}", "x-abc 2 129"),
            ("{{html \"<a>\"}} {{urlquery \"a b\"}} {{js \"'\"}}", "&lt;a&gt; a+b \\'"),
            ("{{len \"häh\"}}", "4"),
            ("{{\"a\\tb\"}}{{`c\\t`}}{{'x'}}", "a\tbc\\t120"),
        ] {
            assert_eq!(run(template).as_deref(), Ok(want), "{template}");
        }
    }

    #[test]
    fn white_space_comments_and_loops() {
        for (template, want) in [
            ("a {{- .ID -}} b", "aabcb"),
            ("a{{/* nothing */}}b {{- /* x */ -}} c", "abc"),
            ("{{range .Config.Env}}{{if eq . \"A=b\"}}{{break}}{{end}}{{.}}{{end}}", "PATH=/bin"),
            ("{{range .Config.Env}}{{if eq . \"A=b\"}}{{continue}}{{end}}{{.}}{{end}}", "PATH=/bin"),
            ("{{range .Config.Entrypoint}}x{{else}}empty{{end}}", "empty"),
            ("{{$n := 0}}{{range .Mounts}}{{$n = .Type}}{{end}}{{$n}}", "volume"),
            ("{{range 3}}{{.}}{{end}}", "012"),
            ("{{$.ID}}{{with .State}}{{$.ID}}{{end}}", "abcabc"),
            ("no action at all", "no action at all"),
        ] {
            assert_eq!(run(template).as_deref(), Ok(want), "{template}");
        }
    }

    #[test]
    fn mistakes_are_named_in_gos_words() {
        for (template, want) in [
            ("{{.Foo}}", "template: :1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\""),
            ("{{.Config.Foo}}", "template: :1:9: executing \"\" at <.Config.Foo>: map has no entry for key \"Foo\""),
            ("{{.ID.Foo}}", "template: :1:5: executing \"\" at <.ID.Foo>: can't evaluate field Foo in type string"),
            (
                "{{index .RepoDigests 1}}",
                "template: :1:2: executing \"\" at <index .RepoDigests 1>: error calling index: index out of range: 1",
            ),
            ("{{nosuch .}}", "template: :1: function \"nosuch\" not defined"),
            ("{{.ID", "template: :1: unclosed action"),
            ("{{if .ID}}x", "template: :1: unexpected EOF"),
            ("{{end}}", "template: :1: unexpected {{end}}"),
            ("{{}}", "template: :1: missing value for command"),
            ("{{$x}}", "template: :1: undefined variable \"$x\""),
            ("{{\"a}}", "template: :1: unterminated quoted string"),
            ("{{break}}", "template: :1: {{break}} outside {{range}}"),
            ("{{template \"x\"}}", "template: :1: {{template}} is not supported"),
            (
                "{{lt .ID 1}}",
                "template: :1:2: executing \"\" at <lt .ID 1>: error calling lt: incompatible types for comparison",
            ),
        ] {
            assert_eq!(run(template).unwrap_err(), want, "{template}");
        }
        assert!(run(&"{{if .ID}}".repeat(5000)).is_err());
        assert!(run(&format!("{{{{{}.ID}}}}", "(".repeat(5000))).is_err());
    }

    proptest! {
        #[test]
        fn any_text_ends_in_a_result(text in r#"(\{\{|\}\}|[-.$"`'(){}|:=, a-zA-Z0-9]|range|if|end|else|index|len|printf|\PC){0,40}"#) {
            drop(run(&text));
        }
    }
}
