//! `login`: credentials for a registry, tried before they are kept.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::PathBuf;

use clap::Args;
use rcompose_engine::image::{Credentials, DEFAULT_REGISTRY, RegistryError, find_credentials, save_credentials};

use super::context::Context;
use super::error::Error;
use crate::project::pull as project;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose login -u me --password-stdin registry.internal:5000 < password")]
pub struct LoginArgs {
    /// Password or access token; better use --password-stdin
    #[arg(short, long, conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Take the password or access token from stdin
    #[arg(long)]
    password_stdin: bool,
    /// Username
    #[arg(short, long)]
    username: Option<String>,
    /// The registry; docker.io if it is left out
    server: Option<String>,
}

pub fn run(context: &Context, args: &LoginArgs) -> Result<(), Error> {
    let registry = registry(args.server.as_deref());
    let config = config_file()?;
    if args.password.is_some() {
        context.ui.warn("Using --password via the CLI is insecure. Use --password-stdin.");
    }
    let typed = typed(args, &registry)?;
    let (username, password) = match typed {
        Some(typed) => typed,
        None => match find_credentials(&config, &registry)? {
            Some(known) => {
                context.ui.out("Authenticating with existing credentials...\n")?;
                check(context, &registry, known)?;
                return Ok(context.ui.out("Login Succeeded\n")?);
            }
            None => ask(&registry, args.username.as_deref())?,
        },
    };
    check(context, &registry, Credentials::Basic { username: username.clone(), password: password.clone() })?;
    let encrypted = save_credentials(&config, &registry, &username, &password)?;
    if !encrypted {
        context.ui.warn(&format!(
            "Your credentials are stored unencrypted in '{}'. Configure a credential helper to remove this warning.",
            config.display()
        ));
    }
    Ok(context.ui.out("Login Succeeded\n")?)
}

/// Returns the user name and the password that the command line gives.
fn typed(args: &LoginArgs, registry: &str) -> Result<Option<(String, String)>, Error> {
    if args.password_stdin {
        let Some(username) = &args.username else {
            return Err(Error::new("Must provide --username with --password-stdin"));
        };
        let mut password = String::new();
        io::stdin().take(64 * 1024).read_to_string(&mut password)?;
        let password = password.trim_end_matches(['\r', '\n']).to_owned();
        return Ok(Some((username.clone(), not_empty(password)?)));
    }
    match (&args.username, &args.password) {
        (Some(username), Some(password)) => Ok(Some((username.clone(), not_empty(password.clone())?))),
        (Some(username), None) => ask(registry, Some(username)).map(Some),
        (None, Some(password)) => {
            let username = line(&format!("Username for {registry}: "))?;
            Ok(Some((username, not_empty(password.clone())?)))
        }
        (None, None) => Ok(None),
    }
}

fn not_empty(password: String) -> Result<String, Error> {
    if password.is_empty() { Err(Error::new("password is empty")) } else { Ok(password) }
}

/// Asks for what is missing, on the terminal.
fn ask(registry: &str, username: Option<&str>) -> Result<(String, String), Error> {
    let username = match username {
        Some(username) => username.to_owned(),
        None => line(&format!("Username for {registry}: "))?,
    };
    if username.is_empty() {
        return Err(Error::new("username is empty"));
    }
    let terminal = terminal()?;
    terminal.write_str("Password: ")?;
    Ok((username, not_empty(terminal.read_secure_line()?)?))
}

fn line(prompt: &str) -> Result<String, Error> {
    let terminal = terminal()?;
    terminal.write_str(prompt)?;
    Ok(terminal.read_line()?.trim().to_owned())
}

fn terminal() -> Result<console::Term, Error> {
    if !io::stdin().is_terminal() {
        let hint = "give --username and --password-stdin";
        return Err(Error::with_hint("Cannot perform an interactive login from a non TTY device", hint));
    }
    Ok(console::Term::stderr())
}

/// Asks the registry whether it lets these credentials in.
fn check(context: &Context, registry: &str, credentials: Credentials) -> Result<(), Error> {
    context.block_on(async {
        let client = project::pull_options(&project::Sources::of_host())?.client;
        match client.check_login(registry, Some(credentials)).await {
            Ok(()) => Ok(()),
            Err(error @ RegistryError::Denied { .. }) => Err(Error::with_hint(
                format!("cannot log in to {registry}: {error}"),
                "check the user name and the password; some registries want an access token for a password",
            )),
            Err(error) => Err(error.into()),
        }
    })
}

/// Returns the registry that a server's address means, as it is called in image names.
pub fn registry(server: Option<&str>) -> String {
    let server = server.unwrap_or(DEFAULT_REGISTRY);
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest);
    match host {
        "" | "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY.to_owned(),
        host => host.to_owned(),
    }
}

/// Returns where credentials are kept, whether there are some or not.
pub fn config_file() -> Result<PathBuf, Error> {
    let hint = "set HOME or DOCKER_CONFIG";
    project::docker_config().ok_or_else(|| Error::with_hint("there is no home directory to keep credentials in", hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_be_a_url() {
        for (server, want) in [
            (None, "docker.io"),
            (Some("https://index.docker.io/v1/"), "docker.io"),
            (Some("registry.internal:5000"), "registry.internal:5000"),
            (Some("http://registry.internal:5000/"), "registry.internal:5000"),
        ] {
            assert_eq!(registry(server), want, "{server:?}");
        }
    }
}
