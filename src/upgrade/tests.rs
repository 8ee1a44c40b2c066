use std::fs::{self, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Mutex;
use std::sync::mpsc;

use tempfile::TempDir;

use super::*;

/// A role that says what it is asked to do, with one listening socket.
struct Sample {
    listener: TcpListener,
    said: Mutex<mpsc::Sender<&'static str>>,
    refuses: bool,
    /// For a word before it has let go.
    waits: Mutex<Option<mpsc::Receiver<()>>>,
}

impl Sample {
    fn new(refuses: bool) -> (Sample, mpsc::Receiver<&'static str>) {
        let (said, heard) = mpsc::channel();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (Sample { listener, said: Mutex::new(said), refuses, waits: Mutex::default() }, heard)
    }

    fn say(&self, what: &'static str) {
        self.said.lock().unwrap().send(what).unwrap();
    }
}

impl Predecessor for Sample {
    fn offer(&self) -> Result<(Offer, Vec<OwnedFd>), String> {
        if self.refuses {
            return Err("it is stopping".into());
        }
        let sockets = vec![(SocketKind::Clients, self.listener.local_addr().unwrap())];
        let fd = self.listener.try_clone().unwrap().into();
        Ok((Offer { is_ready: true, points: 2, sockets }, vec![fd]))
    }
    fn make_way(&self) -> io::Result<()> {
        self.say("make way");
        Ok(())
    }
    fn let_go(&self) -> io::Result<()> {
        self.say("let go");
        if let Some(waits) = &*self.waits.lock().unwrap() {
            waits.recv().unwrap();
        }
        Ok(())
    }
    fn go_on(&self) {
        self.say("go on");
    }
    fn leave(&self) {
        self.say("leave");
    }
}

fn start(refuses: bool) -> (TempDir, PathBuf, SocketAddr, mpsc::Receiver<&'static str>, Giving) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("role.upgrade.sock");
    let (sample, heard) = Sample::new(refuses);
    let address = sample.listener.local_addr().unwrap();
    let giving = Post::bind(path.clone(), true).unwrap().give(Role::Gateway, sample).unwrap().unwrap();
    (folder, path, address, heard, giving)
}

fn asked(path: &Path) -> (Taking, Inheritance) {
    ask(path, Role::Gateway).unwrap().expect("somebody is there")
}

#[test]
fn a_socket_goes_to_the_next_process_with_whoever_waits_in_it() {
    let (_folder, path, address, heard, giving) = start(false);
    let waits = TcpStream::connect(address).unwrap();
    let (mut taking, mut inherited) = asked(&path);
    assert!(inherited.is_successor() && taking.offer.is_ready && taking.offer.points == 2);
    assert!(inherited.take(SocketKind::Channels, address).is_none(), "it is for clients");
    let listener = TcpListener::from(inherited.take(SocketKind::Clients, address).unwrap());
    assert!(!inherited.holds(address));
    taking.started().unwrap();
    taking.ready().unwrap();
    taking.taken().unwrap();
    let expected = ["make way", "let go", "leave"];
    assert_eq!(expected.map(|_| heard.recv().unwrap()), expected);
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(peer, waits.local_addr().unwrap());
    drop(giving);
    assert!(!path.exists());
}

#[test]
fn a_process_that_is_lost_on_the_way_is_as_if_it_had_not_been() {
    let (_folder, path, _, heard, _giving) = start(false);
    let (taking, _) = asked(&path);
    drop(taking);
    let (mut taking, _) = asked(&path);
    taking.started().unwrap();
    assert_eq!(heard.recv(), Ok("make way"), "nothing was to be taken back from the first");
    drop(taking);
    assert_eq!(heard.recv(), Ok("go on"));
    let (mut taking, _) = asked(&path);
    taking.started().unwrap();
    taking.ready().unwrap();
    assert_eq!([heard.recv(), heard.recv()], [Ok("make way"), Ok("let go")]);
    drop(taking);
    assert_eq!(heard.recv(), Ok("go on"), "it never said that it had taken over");
    let (mut taking, _) = asked(&path);
    taking.started().unwrap();
    taking.ready().unwrap();
    taking.taken().unwrap();
    assert_eq!(heard.iter().take(3).last(), Some("leave"));
}

/// One to which the place was given, and that has not said that it takes it.
fn asked_until_yours() -> (TempDir, mpsc::Receiver<&'static str>, Giving, Taking) {
    let (folder, path, _, heard, giving) = start(false);
    let (mut taking, _) = asked(&path);
    taking.started().unwrap();
    taking.ready().unwrap();
    assert_eq!([heard.recv(), heard.recv()], [Ok("make way"), Ok("let go")]);
    (folder, heard, giving, taking)
}

#[test]
fn who_says_too_late_that_it_takes_the_place_hears_that_it_has_not() {
    let (_folder, heard, _giving, taking) = asked_until_yours();
    assert_eq!(heard.recv(), Ok("go on"), "it says nothing");
    let refused = taking.taken().unwrap_err();
    assert!(matches!(&refused, TakeError::NotTaken(NotTaken::Refused(text)) if text.contains("nothing")));
    assert!(heard.try_recv().is_err(), "{refused}");
}

#[test]
fn who_ends_behind_its_word_has_taken_nothing() {
    let (own, stream) = UnixStream::pair().unwrap();
    let (release, waits) = mpsc::channel();
    let (sample, heard) = Sample::new(false);
    let sample = Sample { waits: Mutex::new(Some(waits)), ..sample };
    let gives = thread::spawn(move || give(stream, Role::Gateway, &sample));
    let mut talk = Talk::new(own.try_clone().unwrap()).unwrap();
    let hello = Message::Hello(Hello { version: VERSION, role: Role::Gateway });
    for message in [hello, Message::Started, Message::Ready] {
        talk.say(&message, &[]).unwrap();
    }
    assert_eq!([heard.recv(), heard.recv()], [Ok("make way"), Ok("let go")]);
    talk.say(&Message::Taken, &[]).unwrap();
    own.shutdown(std::net::Shutdown::Write).unwrap();
    release.send(()).unwrap();
    assert_eq!(heard.recv(), Ok("go on"));
    assert!(!gives.join().unwrap());
}

#[test]
fn who_is_told_to_end_takes_no_place_and_who_has_taken_it_does_not_give_up() {
    let (_folder, heard, _giving, taking) = asked_until_yours();
    assert!(taking.resolve().give_up());
    assert!(matches!(taking.taken(), Err(TakeError::GivenUp)));
    assert_eq!(heard.recv(), Ok("go on"));
    let (_folder, heard, _giving, taking) = asked_until_yours();
    let resolve = taking.resolve();
    taking.taken().unwrap();
    assert_eq!(heard.recv(), Ok("leave"));
    assert!(!resolve.give_up());
}

#[test]
fn whose_predecessor_dies_is_alone() {
    let (one, other) = UnixStream::pair().unwrap();
    let talk = Talk::new(one).unwrap();
    let (taker, resolve) = (Taker::default(), Resolve::default());
    let mut taking = Taking { talk, taker, resolve, offer: Offer::default() };
    let mut old = Talk::new(other).unwrap();
    old.say(&Message::Offer(Offer::default()), &[]).unwrap();
    hear(&mut taking.talk, &mut taking.taker).unwrap();
    old.say(&Message::Yours, &[]).unwrap();
    taking.ready().unwrap();
    assert!(old.is_there());
    // READY waits there unheard, so that the end is a reset.
    drop(old);
    assert!(!taking.talk.is_there());
    taking.taken().unwrap();
}

#[test]
fn who_gives_nothing_says_why() {
    let (_folder, path, _, _heard, _giving) = start(true);
    let refused = ask(&path, Role::Gateway).err().unwrap().to_string();
    assert!(refused.contains("it is stopping"), "{refused}");
    let refused = ask(&path, Role::Connector).err().unwrap().to_string();
    assert!(refused.contains("a connector that would take the place of a gateway"), "{refused}");
}

#[test]
fn a_socket_that_cannot_be_made_keeps_a_process_from_taking_a_place() {
    let folder = tempfile::tempdir().unwrap();
    // As a file, it is no folder for root either.
    let file = folder.path().join("file");
    fs::write(&file, "text").unwrap();
    assert!(Post::later(file.join("role.upgrade.sock"), false).prepare().is_err());
    let mut post = Post::later(folder.path().join("role.upgrade.sock"), false);
    post.prepare().unwrap();
    drop(post);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left of it");
}

#[test]
fn a_process_is_asked_where_the_one_before_was_when_its_place_is_its_own() {
    let (_folder, path, _, heard, giving) = start(false);
    let (sample, heard_next) = Sample::new(false);
    let mut post = Post::later(path.clone(), false);
    post.prepare().unwrap();
    let mut next = post.give(Role::Gateway, sample).unwrap().unwrap();
    let (mut taking, _) = asked(&path);
    taking.started().unwrap();
    assert_eq!(heard.recv(), Ok("make way"), "the one before is asked");
    taking.ready().unwrap();
    taking.taken().unwrap();
    assert_eq!(heard.iter().take(2).last(), Some("leave"));
    next.take_place();
    drop(giving);
    let (mut taking, _) = asked(&path);
    taking.started().unwrap();
    assert_eq!(heard_next.recv(), Ok("make way"), "the next one is");
}

#[test]
fn who_waits_there_is_told_by_its_process_id() {
    let (folder, path, _, heard, _giving) = start(false);
    assert_eq!(holder(&path).unwrap(), i32::try_from(std::process::id()).unwrap());
    assert!(holder(&folder.path().join("another")).is_err());
    drop(asked(&path));
    assert!(heard.try_recv().is_err());
}

#[test]
fn nobody_there_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    assert!(ask(&path, Role::Gateway).unwrap().is_none());
    let (listener, file) = crate::admin::bind_socket(&path).unwrap();
    drop(listener);
    assert!(ask(&path, Role::Gateway).unwrap().is_none(), "a process that died left it");
    drop(file);
}

#[test]
fn a_socket_that_others_may_use_is_not_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    for mode in [0o660, 0o606, 0o777] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = ask(&path, Role::Gateway).err().unwrap().to_string();
        assert!(error.contains(&format!("mode {mode:04o}, expected")), "{error}");
    }
    fs::remove_file(&path).unwrap();
    fs::write(&path, "text").unwrap();
    let error = ask(&path, Role::Gateway).err().unwrap().to_string();
    assert!(error.contains("no socket"), "{error}");
}

#[test]
fn a_stranger_that_says_nonsense_changes_nothing() {
    use std::io::{Read, Write};
    let (_folder, path, _, heard, _giving) = start(false);
    let mut stranger = UnixStream::connect(&path).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    stranger.read_to_end(&mut Vec::new()).unwrap();
    assert!(heard.try_recv().is_err());
    drop(asked(&path));
}

#[test]
fn sockets_are_beside_those_by_which_a_role_is_changed() {
    let rows = [
        ("/run/cmg/gateway.sock", "/run/cmg/gateway.upgrade.sock"),
        ("connector.sock", "connector.upgrade.sock"),
        ("a/plain", "a/plain.upgrade.sock"),
    ];
    for (control, expected) in rows {
        assert_eq!(default_socket(Path::new(control)), Path::new(expected));
    }
}

#[test]
fn what_is_said_to_the_service_manager_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    systemd::send(path.as_os_str().as_encoded_bytes(), "READY=1").unwrap();
    let mut heard = [0; 64];
    let size = manager.recv(&mut heard).unwrap();
    assert_eq!(&heard[..size], b"READY=1");
}
