use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use fornax_backend::Family;

use crate::{RunFolder, sentences};

/// The config that tests start from: a model of 11,000 parameters that sees 128 tokens a step.
const TINY: &str = r#"
[model]
hidden_size = 16
num_layers = 2
num_heads = 2
dropout = 0.1

[tokenizer]
kind = "byte"

[data]
files = ["text.txt"]

[objective]
seq_len = 16

[train]
max_steps = 20
micro_batch_size = 4
gradient_accumulation = 2
log_every = 1
eval_every = 5

[optimizer]
lr = 1e-2

[eval]
max_batches = 4

[checkpoint]
save_every = 5

[sample]
max_new_tokens = 0
"#;

/// The CPU device of this build, on which tests run that are not about devices.
pub fn cpu() -> &'static str {
    if Family::Flex.is_compiled() { "flex" } else { "libtorch" }
}

/// The name of the device that device-dependent tests run on, as `fornax_backend::test_device` opens it.
pub fn test_device_name() -> String {
    std::env::var("FORNAX_TEST_DEVICE").unwrap_or_else(|_| "flex".to_owned())
}

/// A scratch folder in which the programs run, with a cache of its own, a text and a config for a tiny model.
#[derive(Debug)]
pub struct Lab {
    folder: tempfile::TempDir,
    program: PathBuf,
}

/// How a program ended and what it said.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit code; none after a signal that ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A program that runs; killed when dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Lab {
    /// A folder with `text.txt` (6 kB of sentences) and `tiny.toml`, in which `program`, the binary `under-test`, runs.
    pub fn new(program: &str) -> Self {
        let lab = Self { folder: tempfile::tempdir().unwrap(), program: program.into() };
        fs::create_dir(lab.path("")).unwrap();
        lab.write("text.txt", sentences(6000));
        lab.write("tiny.toml", TINY);
        lab
    }

    /// A path in the working folder of the programs.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("work").join(name)
    }

    /// A path in the cache folder of the programs.
    pub fn cache(&self, name: &str) -> PathBuf {
        self.folder.path().join("cache").join(name)
    }

    /// Writes a file, and the folders that it needs.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Writes `tiny.toml` with each first text, which must be in it, replaced by the second, under another name.
    pub fn write_config(&self, name: &str, changes: &[(&str, &str)]) {
        let change = |config: String, (from, to): &(&str, &str)| {
            assert!(config.contains(from), "{from} is not in the config");
            config.replace(from, to)
        };
        self.write(name, changes.iter().fold(TINY.to_owned(), change));
    }

    /// The run in a folder of this name.
    pub fn run(&self, name: &str) -> RunFolder {
        RunFolder::new(self.path(name))
    }

    /// A program with these arguments: no terminal, no settings of the user, and backtraces asked for, so that one
    /// that is printed is seen.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(program).args(arguments).current_dir(self.path(""));
        self.prepare(&mut command);
        command
    }

    /// A shell that is told to run `gpt-lm` in the place of `PROGRAM`, after what else the script does.
    pub fn shell(&self, script: &str) -> Command {
        let program = format!("'{}' gpt-lm --device {}", self.program.display(), cpu());
        let mut command = Command::new("sh");
        command.arg("-c").arg(script.replace("PROGRAM", &program)).current_dir(self.path(""));
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command.env("FORNAX_CACHE", self.cache("")).env("RUST_BACKTRACE", "1").env("COLUMNS", "100");
        for name in ["FORNAX_DATA", "FORNAX_LOG", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    /// Runs a recipe to its end, on the CPU unless the arguments name a device.
    pub fn train(&self, recipe: &str, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(recipe, &on_cpu(arguments)))
    }

    /// Starts a recipe on the CPU.
    pub fn start_training(&self, recipe: &str, arguments: &[&str]) -> Running {
        Running(self.command(recipe, &on_cpu(arguments)).spawn().unwrap())
    }

    /// [`train`](Self::train) of `gpt-lm`.
    pub fn gpt_lm(&self, arguments: &[&str]) -> Outcome {
        self.train("gpt-lm", arguments)
    }

    /// [`start_training`](Self::start_training) of `gpt-lm`.
    pub fn start(&self, arguments: &[&str]) -> Running {
        self.start_training("gpt-lm", arguments)
    }

    /// Runs `fornax` to its end.
    pub fn fornax(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command("fornax", arguments))
    }

    /// Every file and folder in the working folder, with the contents of the files.
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        collect(&self.path(""), "", &mut found);
        found
    }
}

fn on_cpu<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let names_device = arguments.contains(&"--device");
    let device = if names_device { [].as_slice() } else { &["--device", cpu()] };
    [arguments, device].concat()
}

fn collect(folder: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            collect(&path, &format!("{name}/"), found);
            found.insert(name + "/", Vec::new());
        } else {
            found.insert(name, fs::read(path).unwrap());
        }
    }
}

impl Outcome {
    /// Runs a command to its end.
    pub fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).expect("programs print UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Refuses any exit code but 0, and any panic.
    ///
    /// # Panics
    ///
    /// Then, with all that the program said.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.code == Some(0) && !self.stderr.contains("panicked"), "{self:#?}");
        self
    }

    /// Refuses anything but one error with this exit code, which says all of `says`: no panic, no backtrace, no output.
    ///
    /// # Panics
    ///
    /// Then, with `case` and all that the program said.
    #[track_caller]
    pub fn refused(&self, case: &str, code: i32, says: &[&str]) {
        let faults = self.faults_as_refusal(code, says);
        assert!(faults.is_empty(), "{case}: {faults:?}\n{self:#?}");
    }

    /// What keeps this from being a refusal as [`refused`](Self::refused) wants it.
    pub fn faults_as_refusal(&self, code: i32, says: &[&str]) -> Vec<String> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, fault: String| faults.extend((!holds).then_some(fault));
        expect(self.code == Some(code), format!("the exit code is {:?}, not {code}", self.code));
        let errors = self.stderr.lines().filter(|line| line.starts_with("error")).count();
        expect(errors == 1, format!("{errors} errors"));
        for symptom in ["panicked", "this is a bug", "backtrace", "Backtrace", "RUST_BACKTRACE", ".rs:"] {
            expect(!self.stderr.contains(symptom), format!("it says {symptom:?}"));
        }
        for text in says {
            expect(self.stderr.contains(text), format!("it doesn't say {text:?}"));
        }
        expect(self.stdout.is_empty(), "there is output".to_owned());
        faults
    }
}

impl Running {
    /// Waits until `condition` holds.
    ///
    /// # Panics
    ///
    /// When the program ends before, or after two minutes.
    #[track_caller]
    pub fn until(mut self, condition: impl Fn() -> bool) -> Self {
        let start = Instant::now();
        loop {
            // Asked first: what came just before its end did come.
            let over = self.0.try_wait().unwrap().is_some() || start.elapsed() > Duration::from_secs(120);
            if condition() {
                return self;
            }
            if over {
                panic!("what was waited for did not come: {:#?}", self.end());
            }
            sleep(Duration::from_millis(1));
        }
    }

    /// Waits, at most until the program ends.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        sleep(time);
        self
    }

    /// Ends it as a power cut does; returns whether it was still running.
    pub fn kill(mut self) -> bool {
        let running = self.0.try_wait().unwrap().is_none();
        let _ = self.0.kill(); // It may have ended in between.
        self.0.wait().unwrap();
        running
    }

    /// Sends a signal, by its name without `SIG`.
    #[must_use]
    pub fn signal(self, name: &str) -> Self {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.0.id())]).status().unwrap();
        assert!(sent.success(), "kill -{name}");
        self
    }

    /// Waits for its end.
    pub fn end(mut self) -> Outcome {
        // What tests run says less than a pipe holds, so reading one after the other blocks nobody.
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        Outcome { code: self.0.wait().unwrap().code(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that failed must not leave a training behind; one that went well has waited for the end already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
