//! The keys of attached `up`, and the line that names them.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::ui::below;
use crate::ui::colour::BOLD;
use crate::ui::keyboard::Keyboard;
use crate::ui::terminal::is_ours;

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// The containers go on without us.
    Detach,
    /// Begin to watch files, or no longer.
    Watch,
    /// Print the addresses of published ports, and open them where there is a browser.
    Open,
    /// Stop the containers, as Control-C does.
    Quit,
    /// An empty line between the logs.
    Blank,
}

impl Key {
    fn typed(sign: char) -> Option<Self> {
        Some(match sign.to_ascii_lowercase() {
            'd' => Self::Detach,
            'w' => Self::Watch,
            'o' => Self::Open,
            'q' => Self::Quit,
            '\n' => Self::Blank,
            _ => return None,
        })
    }
}

/// What there is to choose.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choices {
    /// Whether a service has something to watch.
    pub(super) watch: bool,
    /// Whether a service publishes ports.
    pub(super) open: bool,
    pub(super) colours: bool,
}

/// The keys, while they are listened to.
#[derive(Debug)]
pub(super) struct Menu {
    keyboard: Keyboard,
    /// Keys that were pressed before the one that is returned next was heard.
    pressed: VecDeque<Key>,
    choices: Choices,
    watching: bool,
    /// The window has another size.
    resized: Signal,
    /// We were stopped, and go on.
    continued: Signal,
    /// What would end this process where it stands, with the terminal as it is.
    deadly: [Signal; 2],
}

/// Something for whoever listens.
#[derive(Debug)]
pub(super) enum Heard {
    Key(Key),
    /// The signal with this number asks for the end at once.
    Deadly(u8),
}

const DEADLY: [SignalKind; 2] = [SignalKind::hangup(), SignalKind::quit()];

impl Menu {
    /// Listens to keys if there is somebody who presses some: in the foreground of a terminal that shows everything.
    pub(super) fn open(choices: Choices, watching: bool) -> io::Result<Option<Self>> {
        let all = io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal();
        if !all || !is_ours() {
            return Ok(None);
        }
        let [hangup, quit] = DEADLY;
        let menu = Self {
            keyboard: Keyboard::take()?,
            pressed: VecDeque::new(),
            choices,
            watching,
            resized: signal(SignalKind::window_change())?,
            continued: signal(SignalKind::from_raw(nix::libc::SIGCONT))?,
            deadly: [signal(hangup)?, signal(quit)?],
        };
        menu.draw()?;
        Ok(Some(menu))
    }

    /// Shows whether files are watched.
    pub(super) fn watches(&mut self, watching: bool) -> io::Result<()> {
        self.watching = watching;
        self.draw()
    }

    fn draw(&self) -> io::Result<()> {
        below::set(Some(parts(self.choices, self.watching)))
    }

    /// Waits for what comes next, and keeps the line as it has to be. Cancel-safe.
    pub(super) async fn next(&mut self) -> io::Result<Heard> {
        loop {
            if let Some(key) = self.pressed.pop_front() {
                return Ok(Heard::Key(key));
            }
            let [hangup, quit] = &mut self.deadly;
            tokio::select! {
                typed = self.keyboard.next() => {
                    // What begins with an escape has letters that are none: an arrow, for example.
                    if !typed.starts_with('\x1b') {
                        self.pressed.extend(typed.chars().filter_map(Key::typed));
                    }
                }
                _ = self.resized.recv() => self.draw()?,
                _ = self.continued.recv() => {
                    self.keyboard.take_again()?;
                    self.draw()?;
                }
                _ = hangup.recv() => return Ok(Heard::Deadly(1)),
                _ = quit.recv() => return Ok(Heard::Deadly(3)),
            }
        }
    }
}

impl Drop for Menu {
    fn drop(&mut self) {
        // The terminal may be gone, and the line with it.
        let _ = below::set(None);
    }
}

/// Waits for what a menu hears next; for ever without one.
pub(super) async fn heard(menu: &mut Option<Menu>) -> io::Result<Heard> {
    match menu {
        Some(menu) => menu.next().await,
        None => std::future::pending().await,
    }
}

/// Returns what the line says, in Docker Compose's words where it has some.
fn parts(choices: Choices, watching: bool) -> Vec<String> {
    let Choices { watch, open, colours } = choices;
    let watch = watch.then_some(("w", if watching { "Disable Watch" } else { "Enable Watch" }));
    let open = open.then_some(("o", "URLs"));
    let all = [Some(("d", "Detach")), watch, open, Some(("q", "Stop"))];
    let key = |key: &str| if colours { BOLD.paint(key) } else { key.to_owned() };
    all.into_iter().flatten().map(|(letter, what)| format!("{} {what}", key(letter))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_what_there_is() {
        let said = |watch, open, watching| parts(Choices { watch, open, colours: false }, watching).join(", ");
        assert_eq!(said(true, true, false), "d Detach, w Enable Watch, o URLs, q Stop");
        assert_eq!(said(true, false, true), "d Detach, w Disable Watch, q Stop");
        assert_eq!(said(false, false, false), "d Detach, q Stop");
    }

    #[test]
    fn keys_are_letters_of_either_case() {
        assert_eq!(Key::typed('W'), Some(Key::Watch));
        assert_eq!(Key::typed('\n'), Some(Key::Blank));
        assert_eq!(Key::typed('\x1b'), None);
    }
}
