//! Runs the tests of many programs, each test in a process of its own and some at a time: a program by itself would
//! leave processors idle whenever its last test runs, and one test that dies would take the others of its program along.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::tally::Tally;
use crate::test::TestProgram;
use crate::{process, project};

/// No test takes as long: one that does hangs, and is ended.
const LIMIT: Duration = Duration::from_mins(10);
/// How often a running test is looked at.
const GLANCE: Duration = Duration::from_millis(20);
/// What concerns how a test runs; all other arguments select tests.
const PASSED_ON: [&str; 2] = ["--nocapture", "--show-output"];

/// What all tests of a run share.
pub struct Pool<'a> {
    /// Variables of the environment.
    pub settings: &'a [(&'a str, &'a OsStr)],
    /// Arguments as the test programs take them.
    pub arguments: &'a [OsString],
    /// Tests that run beside each other.
    pub threads: usize,
}

impl Pool<'_> {
    /// Runs the selected tests of `programs` and sums what became of them; one that ends without saying counts as a
    /// failure.
    pub fn run<'p>(&self, programs: impl IntoIterator<Item = &'p TestProgram>) -> Result<Tally> {
        let mut tests = Vec::new();
        for program in programs {
            let names = self.names(program)?;
            tests.extend(names.into_iter().map(|name| Test { program, name }));
        }
        println!("running {} tests, {} at a time", tests.len(), self.threads);
        let folder = project::target_dir().join("test-output");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let queue = Mutex::new(tests.iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = |number: usize| {
            let output = folder.join(format!("{number}.txt"));
            let mut done = Vec::new();
            while let Some(test) = next() {
                done.push((test, self.tally(test, &output)));
            }
            done
        };
        let work = &work;
        let done: Vec<_> = thread::scope(|scope| {
            let workers: Vec<_> =
                (0..self.threads).map(|number| scope.spawn(move || work(number))).collect();
            workers.into_iter().filter_map(|worker| worker.join().ok()).flatten().collect()
        });
        ensure!(done.len() == tests.len(), "{} of {} tests ran", done.len(), tests.len());
        Ok(summed(&done))
    }

    /// The selected tests of a program.
    fn names(&self, program: &TestProgram) -> Result<Vec<String>> {
        let mut list = program.command_with(self.settings)?;
        list.args(self.arguments).arg("--list").stderr(Stdio::inherit());
        let output = list.output().with_context(|| format!("{} did not start", program.name()))?;
        ensure!(output.status.success(), "failed: {}", process::shown(&list));
        let text = String::from_utf8(output.stdout)?;
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }

    fn tally(&self, test: &Test<'_>, output: &Path) -> Tally {
        let begin = Instant::now();
        let ended = self.ended(test, output);
        let said = fs::read(output).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let tally = match &ended {
            Ok(_) => said.lines().filter_map(Tally::of_line).next_back().unwrap_or_default(),
            Err(_) => Tally::default(),
        };
        let is_alone = tally.passed + tally.failed + tally.ignored == 1;
        let succeeded = matches!(&ended, Ok(status) if status.success());
        let (tally, word) = match (is_alone, succeeded) {
            (true, true) if tally.ignored == 1 => (tally, "ignored"),
            (true, true) => (tally, "ok"),
            _ => (Tally { failed: 1, ..Tally::default() }, "FAILED"),
        };
        if tally.failed > 0 || self.arguments.iter().any(|argument| is_passed_on(argument)) {
            println!("{said}");
        }
        if let Err(error) = ended {
            println!("{error:#}");
        }
        println!("test {test} ... {word}, {:.1} s", begin.elapsed().as_secs_f64());
        tally
    }

    /// Runs a test to its end, or to the limit.
    fn ended(&self, test: &Test<'_>, output: &Path) -> Result<ExitStatus> {
        let file = File::create(output)?;
        let mut command = test.program.command_with(self.settings)?;
        command.args([test.name.as_str(), "--exact", "--test-threads", "1"]);
        command.args(self.arguments.iter().filter(|argument| is_passed_on(argument)));
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        wait(&mut command)
    }
}

fn wait(command: &mut Command) -> Result<ExitStatus> {
    let mut child = command.spawn().with_context(|| process::shown(command))?;
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if begin.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            bail!("ended behind {} minutes", LIMIT.as_secs() / 60);
        }
        thread::sleep(GLANCE);
    }
}

fn is_passed_on(argument: &OsStr) -> bool {
    PASSED_ON.iter().any(|passed| argument == *passed)
}

fn summed(done: &[(&Test<'_>, Tally)]) -> Tally {
    let mut sum = Tally::default();
    for (test, tally) in done {
        sum += *tally;
        if tally.failed > 0 {
            println!("failed: {test}");
        }
    }
    sum
}

/// One test.
struct Test<'a> {
    program: &'a TestProgram,
    name: String,
}

impl std::fmt::Display for Test<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}::{}", self.program.name(), self.name)
    }
}
