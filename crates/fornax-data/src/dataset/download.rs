use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use ureq::http::{HeaderMap, StatusCode, header};

use super::RemoteFile;
use super::places::verify;
use crate::DataError;
use crate::source::file_sha256;

/// How long a download is tried.
#[derive(Clone, Debug)]
pub struct Patience {
    /// Attempts in a row that bring no byte before it is given up.
    pub attempts: u32,
    /// Time before the second attempt; doubled for each one after.
    pub wait: Duration,
    /// A connection that is silent for so long is dropped.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        // Offline, the error is there after 1 + 2 seconds; a router that starts anew is outlived by restarting the command,
        // which goes on where the last one stopped.
        Self { attempts: 3, wait: Duration::from_secs(1), silence: Duration::from_secs(30) }
    }
}

#[cfg(test)]
impl Patience {
    pub(crate) fn none() -> Self {
        Self { attempts: 2, wait: Duration::from_millis(1), silence: Duration::from_secs(5) }
    }
}

/// Why an attempt failed.
enum Failure {
    /// Another attempt may help.
    Passing(String),
    /// It won't.
    Final(DataError),
}

/// Downloads a file to `target`, verified; if `target` is there already, it is only verified.
///
/// Bytes are collected in `<target>.part`, which a later call continues (HTTP `Range`), and renamed when the sha256 is right.
/// A lock on `<target>.lock` keeps two processes from downloading the same file; the second one waits and finds it done.
///
/// # Errors
/// No connection, an HTTP error, other contents than the data set says, or a folder that can't be written.
pub fn download(file: &RemoteFile, target: &Path, patience: &Patience) -> Result<(), DataError> {
    let folder = target.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(DataError::io(folder))?;
    let _lock = lock(&beside(target, "lock"))?;
    if target.is_file() {
        return verify(target, file);
    }
    let job = Job { file, part: beside(target, "part"), folder, agent: agent(patience), bar: bar(file) };
    let resumed = job.have() > 0;
    tracing::info!("downloading {} to {}", file.url, target.display());
    let mut found = job.fetch(patience)?;
    if found != file.sha256 && resumed {
        tracing::warn!("{} was continued from other contents; starting again", job.part.display());
        job.discard()?;
        found = job.fetch(patience)?;
    }
    job.bar.finish_and_clear();
    if found != file.sha256 {
        job.discard()?;
        return Err(job.error(format!("the server's file has sha256 {found}, the data set says {}", file.sha256)));
    }
    std::fs::rename(&job.part, target).map_err(DataError::io(target))
}

struct Job<'a> {
    file: &'a RemoteFile,
    part: PathBuf,
    folder: &'a Path,
    agent: ureq::Agent,
    bar: ProgressBar,
}

impl Job<'_> {
    /// Attempts until all bytes are here; returns their sha256.
    fn fetch(&self, patience: &Patience) -> Result<String, DataError> {
        let (mut failures, mut wait) = (0, patience.wait);
        while self.have() != self.file.bytes {
            let before = self.have();
            let reason = match self.attempt() {
                Ok(()) => continue,
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(reason)) => reason,
            };
            if self.have() > before {
                (failures, wait) = (0, patience.wait);
            } else {
                failures += 1;
            }
            if failures >= patience.attempts {
                return Err(self.error(reason));
            }
            tracing::warn!("{}: {reason}; trying again in {wait:?}", self.file.url);
            std::thread::sleep(wait);
            wait *= 2;
        }
        file_sha256(&self.part)
    }

    /// One request for the bytes that are missing.
    fn attempt(&self) -> Result<(), Failure> {
        let mut have = self.have();
        if have > self.file.bytes {
            self.discard().map_err(Failure::Final)?;
            have = 0;
        }
        let mut request = self.agent.get(&self.file.url).header(header::ACCEPT_ENCODING, "identity");
        if have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
        }
        let response = request.call().map_err(|error| Failure::Passing(error.to_string()))?;
        let status = response.status();
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            self.discard().map_err(Failure::Final)?;
            return Err(Failure::Passing("the server's file is shorter than what was downloaded before".into()));
        }
        if !status.is_success() {
            let reason = format!("HTTP {status}");
            let passing = status.is_server_error()
                || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
            return Err(if passing { Failure::Passing(reason) } else { Failure::Final(self.error(reason)) });
        }
        // A server that ignores `Range` answers 200 with the whole file.
        let continues = status == StatusCode::PARTIAL_CONTENT && range_start(response.headers()) == Some(have);
        if status == StatusCode::PARTIAL_CONTENT && !continues {
            self.discard().map_err(Failure::Final)?;
            return Err(Failure::Passing("the server sent another range than asked for".into()));
        }
        self.receive(response.into_body().into_reader(), if continues { have } else { 0 })
    }

    /// Writes a body behind the first `have` bytes of the part file.
    fn receive(&self, body: impl Read, mut have: u64) -> Result<(), Failure> {
        let write_error = |error| Failure::Final(DataError::io(&self.part)(error));
        let mut part = OpenOptions::new().create(true).append(true).open(&self.part).map_err(write_error)?;
        part.set_len(have).map_err(write_error)?;
        // One byte more than there should be tells a longer file without downloading it.
        let mut body = body.take(self.file.bytes - have + 1);
        let mut buffer = vec![0; 1 << 16];
        let outcome = loop {
            self.bar.set_position(have);
            match body.read(&mut buffer) {
                Ok(0) if have < self.file.bytes => {
                    break Err(Failure::Passing(format!(
                        "the connection ended after {have} of {} bytes",
                        self.file.bytes
                    )));
                }
                Ok(0) => break Ok(()),
                Ok(count) => {
                    part.write_all(&buffer[..count]).map_err(write_error)?;
                    have += count as u64;
                }
                Err(error) => break Err(Failure::Passing(error.to_string())),
            }
        };
        part.sync_all().map_err(write_error)?;
        if have > self.file.bytes {
            self.discard().map_err(Failure::Final)?;
            let reason = format!("the server's file is longer than the {} bytes of the data set", self.file.bytes);
            return Err(Failure::Final(self.error(reason)));
        }
        outcome
    }

    /// Bytes in the part file.
    fn have(&self) -> u64 {
        self.part.metadata().map_or(0, |metadata| metadata.len())
    }

    fn discard(&self) -> Result<(), DataError> {
        match std::fs::remove_file(&self.part) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(DataError::io(&self.part)(error)),
            _ => Ok(()),
        }
    }

    fn error(&self, reason: String) -> DataError {
        DataError::Download { url: self.file.url.clone(), reason, folder: self.folder.into() }
    }
}

/// `<path>.<suffix>`, in the same folder.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Holds the lock until it is dropped. The file stays: removing it would let two processes lock two files of the same name.
pub(super) fn lock(path: &Path) -> Result<File, DataError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(DataError::io(path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            tracing::info!("waiting for another process that holds {}", path.display());
            file.lock().map_err(DataError::io(path))?;
        }
        Err(TryLockError::Error(error)) => return Err(DataError::io(path)(error)),
    }
    Ok(file)
}

fn agent(patience: &Patience) -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(Some(patience.silence))
        .timeout_connect(Some(patience.silence))
        .timeout_recv_response(Some(patience.silence))
        .timeout_per_read(Some(patience.silence))
        .build()
        .into()
}

/// `n` of `Content-Range: bytes n-m/total`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// On stderr, and only on a terminal.
fn bar(file: &RemoteFile) -> ProgressBar {
    let bar = ProgressBar::new(file.bytes).with_prefix(file.name.clone());
    let template = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} [{elapsed}<{eta}]";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests;
