//! Against a server on the loopback interface that answers a fixed list of requests, one connection each.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::thread::JoinHandle;

use sha2::{Digest, Sha256};

use super::*;

/// What the server does with one request.
enum Reply {
    /// The whole file, whatever range was asked for.
    Whole,
    /// What was asked for.
    Range,
    /// Promises what was asked for and hangs up after so many bytes.
    Cut(usize),
    /// 206 with another range than asked for.
    OtherRange,
    Status(&'static str),
}

struct Server {
    url: String,
    /// The `Range` header of each request.
    thread: JoinHandle<Vec<Option<String>>>,
}

impl Server {
    fn start(content: Vec<u8>, replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/input.txt", listener.local_addr().unwrap());
        let thread =
            std::thread::spawn(move || replies.iter().map(|reply| answer(&listener, &content, reply)).collect());
        Self { url, thread }
    }

    /// Waits until every reply of the list was asked for.
    fn ranges(self) -> Vec<Option<String>> {
        self.thread.join().unwrap()
    }
}

fn answer(listener: &TcpListener, content: &[u8], reply: &Reply) -> Option<String> {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut range = None;
    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
        let line = line.unwrap();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("range")
        {
            range = Some(value.to_owned());
        }
    }
    let asked: usize = range.as_deref().map_or(0, |it| it["bytes=".len()..].trim_end_matches('-').parse().unwrap());
    let start = match reply {
        Reply::Whole => 0,
        Reply::OtherRange => asked - 1,
        _ => asked,
    };
    let body = &content[start..];
    let status = match reply {
        Reply::Status(status) => (*status).to_owned(),
        _ if start == 0 => "200 OK".to_owned(),
        _ => format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{}", content.len() - 1, content.len()),
    };
    let sent = match reply {
        Reply::Cut(count) => &body[..*count],
        Reply::Status(_) => &body[..0],
        _ => body,
    };
    let length = if matches!(reply, Reply::Status(_)) { 0 } else { body.len() };
    // The client may hang up first; what it then makes of it is what the test looks at.
    let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(sent);
    range
}

fn content() -> Vec<u8> {
    (0..200_000_u32).flat_map(|i| i.to_le_bytes()).collect()
}

fn remote(url: &str, content: &[u8]) -> RemoteFile {
    RemoteFile {
        name: "input.txt".into(),
        url: url.into(),
        sha256: format!("{:x}", Sha256::digest(content)),
        bytes: content.len() as u64,
    }
}

/// Downloads from a server with these replies; `part` is what an earlier download left.
fn run(replies: Vec<Reply>, part: Option<&[u8]>) -> (tempfile::TempDir, Result<(), DataError>, Vec<Option<String>>) {
    let server = Server::start(content(), replies);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("sets").join("input.txt");
    if let Some(part) = part {
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(beside(&target, "part"), part).unwrap();
    }
    let outcome = download(&remote(&server.url, &content()), &target, &Patience::none());
    (folder, outcome, server.ranges())
}

fn range(start: usize) -> Option<String> {
    Some(format!("bytes={start}-"))
}

fn assert_complete(folder: &tempfile::TempDir) {
    let target = folder.path().join("sets").join("input.txt");
    assert_eq!(std::fs::read(&target).unwrap(), content());
    assert!(!beside(&target, "part").exists());
}

#[test]
fn a_whole_file() {
    let (folder, outcome, ranges) = run(vec![Reply::Whole], None);
    outcome.unwrap();
    assert_complete(&folder);
    assert_eq!(ranges, [None]);
}

#[test]
fn cut_connections_are_continued() {
    let (folder, outcome, ranges) =
        run(vec![Reply::Cut(300_000), Reply::Cut(100_000), Reply::Status("503 Busy"), Reply::Range], None);
    outcome.unwrap();
    assert_complete(&folder);
    assert_eq!(ranges, [None, range(300_000), range(400_000), range(400_000)]);
}

#[test]
fn an_earlier_download_is_continued() {
    let (folder, outcome, ranges) = run(vec![Reply::Range], Some(&content()[..5]));
    outcome.unwrap();
    assert_complete(&folder);
    assert_eq!(ranges, [range(5)]);
}

#[test]
fn a_server_without_ranges_sends_it_all_again() {
    let (folder, outcome, ranges) = run(vec![Reply::Whole], Some(&content()[..1000]));
    outcome.unwrap();
    assert_complete(&folder);
    assert_eq!(ranges, [range(1000)]);
}

#[test]
fn a_server_that_confuses_ranges_is_asked_for_it_all() {
    let (folder, outcome, ranges) = run(vec![Reply::OtherRange, Reply::Range], Some(&content()[..1000]));
    outcome.unwrap();
    assert_complete(&folder);
    assert_eq!(ranges, [range(1000), None]);
}

#[test]
fn a_part_of_something_else_is_thrown_away() {
    let (folder, outcome, ranges) = run(vec![Reply::Range, Reply::Whole], Some(b"something else"));
    outcome.unwrap();
    assert_complete(&folder);
    assert_eq!(ranges, [range(14), None]);

    let too_long = vec![0; content().len() + 1];
    let (folder, outcome, ranges) = run(vec![Reply::Whole], Some(&too_long));
    outcome.unwrap();
    assert_complete(&folder);
    assert_eq!(ranges, [None]);
}

#[test]
fn a_finished_part_needs_no_request() {
    let (folder, outcome, ranges) = run(vec![], Some(&content()));
    outcome.unwrap();
    assert_complete(&folder);
    assert!(ranges.is_empty());
}

#[test]
fn other_contents_are_refused() {
    let server = Server::start(content(), vec![Reply::Whole, Reply::Whole]);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("input.txt");
    let mut file = remote(&server.url, &content());
    file.sha256 = "0".repeat(64);
    let error = download(&file, &target, &Patience::none()).unwrap_err().to_string();
    assert!(error.contains(&file.sha256) && error.contains(&remote("", &content()).sha256), "{error}");
    file.bytes -= 1;
    let error = download(&file, &target, &Patience::none()).unwrap_err().to_string();
    assert!(error.contains("longer than the 799999 bytes"), "{error}");
    assert!(!target.exists() && !beside(&target, "part").exists());
    server.ranges();
}

#[test]
fn what_is_not_there_is_not_asked_for_twice() {
    let (_folder, outcome, ranges) = run(vec![Reply::Status("404 Not Found")], None);
    let error = outcome.unwrap_err();
    assert!(error.to_string().ends_with("HTTP 404 Not Found"), "{error}");
    assert_eq!(ranges.len(), 1);
}

#[test]
fn a_server_that_stays_away_is_given_up() {
    let (folder, outcome, ranges) =
        run(vec![Reply::Cut(10), Reply::Status("500 Oops"), Reply::Status("500 Oops")], None);
    assert!(outcome.unwrap_err().to_string().contains("HTTP 500"));
    assert_eq!(ranges.len(), 3);
    // What came is kept for the next try.
    assert_eq!(std::fs::read(folder.path().join("sets/input.txt.part")).unwrap(), content()[..10]);

    // A port that was free a moment ago: nobody listens.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = remote(&format!("http://127.0.0.1:{port}/input.txt"), b"abc");
    let error = download(&file, &folder.path().join("x"), &Patience::none()).unwrap_err();
    assert!(matches!(error, DataError::Download { .. }), "{error}");
}

#[test]
fn two_at_once_download_it_once() {
    let server = Server::start(content(), vec![Reply::Whole]);
    let folder = tempfile::tempdir().unwrap();
    let (file, target) = (remote(&server.url, &content()), folder.path().join("input.txt"));
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..3).map(|_| scope.spawn(|| download(&file, &target, &Patience::none()))).collect();
        for job in jobs {
            job.join().unwrap().unwrap();
        }
    });
    assert_eq!(server.ranges().len(), 1);
    assert_eq!(std::fs::read(&target).unwrap(), content());
}
