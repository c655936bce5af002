//! Builds: commands that do nothing, all of them cached, and one changed file among many.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use super::{Side, row};

/// How the names of all rows about builds begin.
pub(super) const BUILD: &str = "build: ";

/// How many files the large context has.
const FILES: usize = 20_000;

const PROJECT: &str = "services:
  five:
    build:
      dockerfile_inline: |
        FROM busybox
        RUN true 1
        RUN true 2
        RUN true 3
        RUN true 4
        RUN true 5
  many:
    build:
      context: ./many
      dockerfile_inline: |
        FROM busybox
        WORKDIR /app
        COPY . .
";

/// Prints a row for each kind of build.
pub(super) fn measure(sides: &[Side<'_>], iterations: usize) -> anyhow::Result<()> {
    let folder = sides[0].stack.project_folder();
    sides[0].stack.write("build.yaml", PROJECT);
    for number in 0..FILES {
        let path = folder.join(format!("many/{}/{number}", number / 100));
        if number % 100 == 0 {
            fs::create_dir_all(path.parent().expect("it is in a folder"))?;
        }
        fs::write(path, format!("{number}\n{}", "x".repeat(2000)))?;
    }
    let mut cold = vec![Vec::new(); sides.len()];
    let mut cached = cold.clone();
    let mut changed = cold.clone();
    for round in 0..=iterations {
        // Files that were just written are read again; nobody changes one and builds within the same instant.
        fs::write(folder.join("many/7/777"), format!("{round} {:?}\n", Instant::now()))?;
        thread::sleep(Duration::from_secs(3));
        for (number, side) in sides.iter().enumerate() {
            let build = |arguments: &[&str]| side.time(&[&["-f", "build.yaml", "build", "-q"], arguments].concat());
            let times = [build(&["--no-cache", "five"])?, build(&["five"])?, build(&["many"])?];
            // The first round has everything to learn.
            if round > 0 {
                cold[number].push(times[0]);
                cached[number].push(times[1]);
                changed[number].push(times[2]);
            }
        }
    }
    row(&format!("{BUILD}5 times RUN true, nothing cached"), &mut cold);
    row(&format!("{BUILD}the same, everything cached"), &mut cached);
    row(&format!("{BUILD}one changed file of {FILES}, all copied"), &mut changed);
    Ok(())
}
