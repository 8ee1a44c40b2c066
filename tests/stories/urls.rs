//! What a URL may look like: odd but legal ones of real clients arrive at the origin octet by octet;
//! those that try to leave what is published, or to be read in two ways, arrive nowhere.
//!
//! Everything is sent as raw octets: a library of URLs would repair what is to be shown.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use crate::client::{Answer, Client};
use crate::harness::{HandOrigin, MANAGEMENT_POINT, OWN, SERVICE, Setup, Stack};

const SOFTWARE_UPDATE_POINT: u64 = MANAGEMENT_POINT + 1;

/// An origin that keeps every request line it gets.
struct Recorder {
    origin: HandOrigin,
    lines: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    fn start() -> Recorder {
        let lines = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let kept = lines.clone();
        let origin = HandOrigin::start(move |mut stream: TcpStream| {
            while let Some(line) = request_line(&mut stream) {
                kept.lock().unwrap().push(line);
                if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                    return;
                }
            }
        });
        Recorder { origin, lines }
    }

    fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }

    /// A management point at the origin's root, a software update point beside it, and an endpoint of
    /// the site's own that stands for a folder.
    fn publish(&self) -> Stack {
        let url = self.origin.url();
        let site = format!(
            "[[software_update_point]]\nid = {SOFTWARE_UPDATE_POINT}\nurl = \"{url}\"\n[[endpoint]]\nid = {OWN}\npath = \"app\"\nurl = \"{url}/internal/app\"\n"
        );
        Setup { site, ..Setup::new(url) }.start()
    }
}

/// Reads one head and gives its first line, exactly; `None` at the end of the connection.
fn request_line(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut octet = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut octet).ok()?;
        head.push(octet[0]);
    }
    let end = head.windows(2).position(|pair| pair == b"\r\n")?;
    head.truncate(end);
    Some(head)
}

/// Sends requests one after the other, on a new connection when the last one ended.
struct Sender<'s> {
    stack: &'s Stack,
    client: Option<Client>,
}

impl<'s> Sender<'s> {
    fn new(stack: &'s Stack) -> Sender<'s> {
        Sender { stack, client: None }
    }

    fn send(&mut self, head: &[u8]) -> Answer {
        let mut client = self.client.take().unwrap_or_else(|| self.stack.client().unwrap());
        client.send(head);
        let answer = client.read().unwrap_or_else(|error| panic!("{}: {error}", show(head)));
        if answer.field("Connection") != Some("close") {
            self.client = Some(client);
        }
        answer
    }

    fn get(&mut self, target: &[u8]) -> Answer {
        let host = format!(" HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n");
        self.send(&[b"GET ", target, host.as_bytes()].concat())
    }
}

fn show(octets: &[u8]) -> String {
    octets[..octets.len().min(200)].escape_ascii().to_string()
}

/// Names below an endpoint that any origin may be asked for.
const NAMES: &[&str] = &[
    "",
    "/",
    "/x/",
    "/x?",
    "/x??",
    "/x?a?b",
    "/x?a=b&c=d&&e",
    "/x?a;b;c=d",
    "/x?%00%2e%2e%2f",
    "/x?/../../y",
    "/x?a=\\b\\..",
    "/x?a=http://elsewhere/y:80",
    "/x?{7C2A1B5E-0D5F-4C2B-9B1A-1F0E5D4C3B2A}",
    "/x?a=\"b\"<c>|d^e`f",
    "/x?~1::$DATA",
    "/a%20b",
    "/a%20%20b.txt",
    "/100%25",
    "/a%25b%25",
    "/%25%25",
    "/a%2Bb",
    "/a+b",
    "/+",
    "/a,b",
    // Parameters of a segment (RFC 3986 3.3).
    "/a;b",
    "/a;b=c;d/e;f",
    "/a;/b",
    "/a;jsessionid=1?q;r",
    "/a=b",
    "/a@b",
    "/@",
    "/~user",
    "/a~",
    "/a~b",
    "/a!b!",
    "/it's",
    "/(x)",
    "/x(1).cab",
    "/a*b",
    "/*",
    "/a|b",
    "/a^b",
    "/a`b",
    "/\"quoted\"",
    "/<tag>",
    "/[x]",
    "/{x}",
    "/$x",
    "/a$b$",
    "/a&b",
    "/a_b-c",
    "/a:b",
    "/12:30:00",
    "/%22%3C%3E%7C%5E%60%7B%7D",
    "/%24%26%27%28%29%2A%2C%3D%40",
    "/%41%62%63",
    "/%7Euser",
    "/x%3Ay",
    "/x%23y",
    "/x%3Fy",
    "/%C3%BCber.txt",
    "/%c3%bcber.txt",
    "/%E6%97%A5%E6%9C%AC%E8%AA%9E",
    "/%F0%9F%93%A6",
    "/%D0%BF%D0%BE%D0%BB%D0%B8%D1%82%D0%B8%D0%BA%D0%B0",
    "/na%C3%AFve%20caf%C3%A9",
    "/a.b.c",
    "/.hidden",
    "/..x",
    "/...x",
    "/x..y",
    "/.x/.y/z",
    "/a.b/c.d/e.f",
    "/file.tar.gz",
    "/CCM_Proxy_MutualAuth/72057594037927941/SMS_MP/x",
    "/UPPER/lower/MiXeD",
    "/nul",
    "/web.config",
];

/// What agents of clients ask a management point for.
const MANAGEMENT: &[&str] = &[
    "/SMS_MP/.sms_aut?MPLIST",
    "/SMS_MP/.sms_aut?MPLIST1&PS1",
    "/SMS_MP/.sms_aut?MPCERT",
    "/SMS_MP/.sms_aut?MPKEYINFORMATION",
    "/SMS_MP/.sms_aut?MPKEYINFORMATIONMEDIA",
    "/SMS_MP/.sms_aut?SITESIGNCERT",
    "/SMS_MP/.sms_aut?MPLIST2&PS1",
    "/SMS_MP/.sms_pol?{7C2A1B5E-0D5F-4C2B-9B1A-1F0E5D4C3B2A}.1_00",
    "/SMS_MP/.sms_pol?DEP-PS120003-PS100014-6F6BCC28.1_00",
    "/SMS_MP/.sms_pol?ScopeId_1E5D4C3B-0D5F/AuthList_7C2A1B5E/VI.SHA256:3B2A.1_00",
    "/SMS_MP/.sms_dcm?Id&DocumentId=ScopeId_1E5D4C3B/ConfigurationPolicy_7C2A1B5E/3/PROPERTIES&Hash=AB%3D",
    "/SMS_MP/.sms_fsp",
    "/SMS_MP/.SMS_POL?{7c2a1b5e-0d5f-4c2b-9b1a-1f0e5d4c3b2a}.12_00",
    "/sms_mp/.sms_aut?mplist",
    "/SMS_MP_AltAuth/.sms_aut?MPLIST1&PS1",
    "/CCM_System/request",
    "/ccm_system/REQUEST",
    "/CCM_System_AltAuth/request",
    "/CCM_Incoming/{7C2A1B5E-0D5F-4C2B-9B1A-1F0E5D4C3B2A}",
    "/CCM_Incoming/%7B7C2A1B5E-0D5F-4C2B-9B1A-1F0E5D4C3B2A%7D",
    "/CCM_Incoming/{7C2A1B5E-0D5F-4C2B-9B1A-1F0E5D4C3B2A}/BITS-Upload/file.xml",
    "/BGB/handler.ashx?RequestType=LogIn",
    "/BGB/handler.ashx?RequestType=Continue&Id={7C2A1B5E}",
    "/CCM_Client/ccmsetup.cab",
    "/CCM_Client/i386/vcredist_x86.exe",
    "/CCM_CLIENT/x64/client.msi",
    "/CCM_STS",
    "/CCM_STS/",
    "/CMUserService/applicationviewservice.asmx",
    "/CCM%5FSystem/request",
    "/%53MS_M%50/.sms_aut?MPLIST",
];

const UPDATES: &[&str] = &[
    "/ClientWebService/client.asmx",
    "/ClientWebService/Client.asmx?WSDL",
    "/SimpleAuthWebService/SimpleAuth.asmx",
    "/simpleauthwebservice/simpleauth.asmx",
    "/ReportingWebService/ReportingWebService.asmx",
];

/// Target and what must arrive of it.
fn legal() -> Vec<(String, String)> {
    let family = "/CCM_Proxy_MutualAuth";
    let mut rows = Vec::new();
    for name in NAMES {
        rows.push((format!("{family}/{MANAGEMENT_POINT}/SMS_MP{name}"), format!("/SMS_MP{name}")));
        rows.push((format!("{family}/{OWN}/app{name}"), format!("/internal/app{name}")));
    }
    for rest in MANAGEMENT {
        rows.push((format!("{family}/{MANAGEMENT_POINT}{rest}"), (*rest).to_owned()));
    }
    for rest in UPDATES {
        rows.push((format!("{family}/{SOFTWARE_UPDATE_POINT}{rest}"), (*rest).to_owned()));
    }
    let spelt = [
        format!("/ccm_proxy_mutualauth/{MANAGEMENT_POINT}"),
        format!("/CCM_PROXY_MUTUALAUTH/{MANAGEMENT_POINT}"),
        format!("/CCM%5FProxy_%4dutualAuth/{MANAGEMENT_POINT}"),
        format!("/CCM_Proxy_MutualAuth/%37{}", &MANAGEMENT_POINT.to_string()[1..]),
        // A client that thinks it speaks to a proxy names the service itself.
        format!("https://{SERVICE}{family}/{MANAGEMENT_POINT}"),
        format!("HTTPS://{SERVICE}{family}/{MANAGEMENT_POINT}"),
    ];
    for prefix in spelt {
        rows.push((format!("{prefix}/SMS_MP/.sms_aut?MPLIST"), "/SMS_MP/.sms_aut?MPLIST".into()));
    }
    rows.push((format!("{family}/{OWN}/APP/x"), "/internal/app/x".into()));
    rows.push((format!("{family}/{OWN}/%61pp/x"), "/internal/app/x".into()));
    // As long as a target may be, and as deep.
    for piece in ["a", "/a", "%20a"] {
        let front = format!("{family}/{MANAGEMENT_POINT}");
        let rest = format!("/SMS_MP/{}", "x".repeat(8));
        let count = (cmg::limits::TARGET_SIZE_MAX - front.len() - rest.len()) / piece.len();
        let rest = format!("{rest}{}", piece.repeat(count));
        rows.push((format!("{front}{rest}"), rest));
    }
    let unique: std::collections::HashSet<&String> = rows.iter().map(|(target, _)| target).collect();
    assert_eq!(unique.len(), rows.len(), "a row twice");
    rows
}

#[test]
fn odd_but_legal_urls_arrive_octet_by_octet() {
    let recorder = Recorder::start();
    let stack = recorder.publish();
    let mut sender = Sender::new(&stack);
    let rows = legal();
    for (target, arrives) in &rows {
        let answer = sender.get(target.as_bytes());
        assert_eq!(answer.status, 200, "{}: {answer:?}", show(target.as_bytes()));
        let lines: Vec<String> = recorder.take().iter().map(|line| show(line)).collect();
        let expected = show(format!("GET {arrives} HTTP/1.1").as_bytes());
        assert_eq!(lines, [expected], "{}", show(target.as_bytes()));
    }
    assert!(rows.len() >= 100);
    println!("{} URLs arrived as they were sent", rows.len());
    assert_eq!(stack.count("panics"), 0);
}

/// What stands behind an endpoint's name and is refused wherever it stands.
const TRICKS: &[&[u8]] = &[
    // Dot segments, in every spelling that some reader takes for one.
    b"/..",
    b"/../",
    b"/../../../../etc/passwd",
    b"/x/../y",
    b"/x/..",
    b"/./x",
    b"/x/.",
    b"/%2e%2e/x",
    b"/%2E%2E/x",
    b"/.%2e/x",
    b"/%2e./x",
    b"/%2e%2e%2fx",
    b"/..%2fx",
    b"/..%5cx",
    b"/%2e%2e%5cx",
    b"/...",
    b"/.../x",
    b"/x./y",
    b"/x.%20/y",
    b"/..%20/x",
    b"/..%09/x",
    b"/..;/x",
    b"/..;a=b/x",
    b"/%2e%2e;/x",
    b"/..%3b/x",
    b"/;/../x",
    // Parameters of a segment without a name.
    b"/;x",
    b"/x/;y",
    b"/.;x/y",
    b"/x.;y",
    b"/x%3by",
    // Encodings within encodings: refused, because a second reader may decode once more.
    b"/%252e%252e/x",
    b"/%252e%252e%252fx",
    b"/%25%32%65/x",
    b"/x%252fy",
    b"/x%255cy",
    b"/%25252e%25252e/x",
    b"/%u002e%u002e/x",
    b"/%25u002e/x",
    // Other separators.
    b"/x\\y",
    b"\\..\\x",
    b"/..\\x",
    b"/x%5cy",
    b"/x%5Cy",
    b"/x%2fy",
    b"/x%2Fy",
    b"//x",
    b"/x//y",
    b"/x//",
    b"///",
    b"/%2fx",
    // Ends of strings and of lines.
    b"/x%00",
    b"/x%00.txt",
    b"/%00/../x",
    b"/x%0d%0aX-Smuggled:%20y",
    b"/x%0a",
    b"/x%0d",
    b"/x%1f",
    b"/x%7f",
    // Not UTF-8, above all longer than needed.
    b"/%c0%ae%c0%ae/x",
    b"/%c0%af",
    b"/x%c1%9cy",
    b"/%e0%80%ae%e0%80%ae/x",
    b"/%e0%80%af",
    b"/%f0%80%80%af",
    b"/%f8%80%80%80%af",
    b"/x%ff",
    b"/x%c3",
    b"/x%c3%28",
    b"/x%ed%a0%80",
    b"/x%f4%90%80%80",
    b"/x\xc3\xbc",
    b"/\xc0\xae\xc0\xae/x",
    b"/x\xff",
    // Characters that some reader folds to dots and slashes.
    b"/%ef%bc%8e%ef%bc%8e/x",
    b"/x%ef%bc%8fy",
    b"/x%e2%88%95y",
    b"/x%e2%81%84y",
    b"/%e2%80%a4%e2%80%a4/x",
    b"/x%c2%85y",
    // Names that Windows takes for others.
    b"/x.",
    b"/x.?y",
    b"/x%20",
    b"/x%2e",
    b"/x%20?y",
    b"/x::$DATA",
    b"/x:$DATA",
    b"/x%3a%24i30",
    b"/PROGRA~1/x",
    b"/x%7e1",
    // Not encodings at all.
    b"/x%",
    b"/x%2",
    b"/x%zz",
    b"/x%+1",
    b"/x% 1",
    // A fragment is never sent.
    b"/x#y",
    b"#/../x",
    b"/x?y#z",
];

/// Targets of what is not published, with status and reason.
fn unpublished() -> Vec<(String, u16)> {
    let family = "/CCM_Proxy_MutualAuth";
    let id = MANAGEMENT_POINT;
    let mut rows = Vec::new();
    // Endpoints that are not offered, or by this family not.
    for rest in [
        "",
        "/",
        "/AdminService/v1.0/Device",
        "/AdminService/wmi/SMS_R_System",
        "/adminservice",
        "/SMS_MP_WindowsAuth/.sms_aut?MPLIST",
        "/CCM_System_WindowsAuth/request",
        "/ccm_system_windowsauth/request",
        "/CCM_System%5FWindowsAuth/request",
        "/SMS_MP_TokenAuth/.sms_aut?MPLIST",
        "/CCM_System_TokenAuth/request",
        "/CCM_System_Token%41uth/request",
        "/SMS_MP2/x",
        "/SMS_M/x",
        "/SMS_MPx",
        "/SMS_MP%2B/x",
        "/SMS_MP:x",
        // For a reader that strips parameters a published path, for others one beside it.
        "/SMS_MP;x/.sms_aut",
        "/SMS_MP;/.sms_aut",
        "/SMS%5FMP;x",
        "/SMS_MP%3Fx",
        "/SMS_MP%20x/y",
        "/%C5%BFMS_MP/x",
        "/CCM_Cl%C4%B1ent/x",
        "/x/SMS_MP/y",
        "/internal/app/x",
        "/app/x",
        "/ClientWebService/client.asmx",
    ] {
        rows.push((format!("{family}/{id}{rest}"), 404));
    }
    for rest in ["", "/", "/appx", "/ap", "/app2/x", "/app%2B", "/internal/app/x", "/internal/", "/SMS_MP/x"]
    {
        rows.push((format!("{family}/{OWN}{rest}"), 404));
    }
    rows.push((format!("{family}/{SOFTWARE_UPDATE_POINT}/SMS_MP/x"), 404));
    rows.push((format!("{family}/{SOFTWARE_UPDATE_POINT}/Content/x.cab"), 404));
    rows.push((format!("{family}/{SOFTWARE_UPDATE_POINT}/SelfUpdate/x"), 404));
    rows.push((format!("{family}/{SOFTWARE_UPDATE_POINT}/ApiRemoting30/WebService.asmx"), 404));
    // Role ids that only nearly are one.
    let wrapped = u128::from(id) + (1 << 64);
    for spelt in [
        format!("+{id}"),
        format!("-{id}"),
        format!("0{id}"),
        format!("00{id}"),
        format!("%30{id}"),
        format!("{id}.0"),
        format!("{id}e0"),
        format!("{id}L"),
        format!("0x{id:x}"),
        format!("{id:x}"),
        format!("{id},0"),
        format!("%20{id}"),
        format!("{wrapped}"),
        format!("{id}0000000000"),
        "18446744073709551616".into(),
        "18446744073709551615".into(),
        "0".into(),
        format!("{}", id + 2),
        format!("%D9%A7{}", &id.to_string()[1..]),
    ] {
        rows.push((format!("{family}/{spelt}/SMS_MP/x"), 404));
    }
    // Parameters stand below an endpoint only.
    rows.push((format!("{family}/{id};a/SMS_MP/x"), 404));
    rows.push((format!("{family};a/{id}/SMS_MP/x"), 404));
    // Families that are none, and paths without one.
    for family in [
        "/CCM_Proxy",
        "/CCM_Proxy_Mutual",
        "/CCM_Proxy_MutualAuthx",
        "/CCM_Proxy_MutualAuth2",
        "/CCM_Proxy_WindowsAuth",
        "/CCM_Proxy_MutualAuth%2B",
        "/x/CCM_Proxy_MutualAuth",
        "/SMS_MP",
        "/CCM_Client",
    ] {
        rows.push((format!("{family}/{id}/SMS_MP/x"), 404));
    }
    for target in ["/", "/*", "/SMS_MP/.sms_aut?MPLIST", "/CCM_Proxy_MutualAuth", "/CCM_Proxy_MutualAuth/"] {
        rows.push((target.into(), 404));
    }
    // The family for tokens: what is published to it, without one, and what is not.
    let without_token = [("SMS_MP_TokenAuth/x", 401), ("CCM_Client/ccmsetup.cab", 401)];
    for (rest, status) in
        without_token.into_iter().chain([("SMS_MP/x", 404), ("AdminService/x", 404), ("", 404)])
    {
        rows.push((format!("/CCM_Proxy_ServerAuth/{id}/{rest}"), status));
    }
    // Tricks with what stands before the endpoint's name.
    for target in [
        format!("/{family}/{id}/SMS_MP/x"),
        format!("{family}//{id}/SMS_MP/x"),
        format!("{family}/{id}//SMS_MP/x"),
        format!("{family}%2f{id}/SMS_MP/x"),
        format!("{family}/{id}%2fSMS_MP/x"),
        format!("{family}/{id}%2FSMS_MP/x"),
        format!("{family}/../CCM_Proxy_MutualAuth/{id}/SMS_MP/x"),
        format!("{family}/./{id}/SMS_MP/x"),
        format!("{family}/x/../{id}/SMS_MP/x"),
        format!("{family}/{id}/x/../SMS_MP/x"),
        format!("{family}/{id}%00/SMS_MP/x"),
        format!("{family}/{id}/SMS_MP%00/x"),
        format!("{family}/{id}/SMS_MP./x"),
        format!("{family}/{id}/SMS_MP%20/x"),
        format!("{family}/{id}/SMS_MP%2fx"),
        format!("{family}/{id}/SMS_M%2550/x"),
        format!("{family}/{id}/%EF%BC%B3MS_MP/x"),
        format!("{family}/{id}/SMS_MP::$DATA/x"),
        format!("{family}\\{id}\\SMS_MP\\x"),
        format!("{family}./{id}/SMS_MP/x"),
        format!("{family}/{id}/CCM_SY~1/request"),
        format!("/..{family}/{id}/SMS_MP/x"),
        format!("/%2e{family}/{id}/SMS_MP/x"),
    ] {
        rows.push((target, 400));
    }
    rows
}

/// Heads whose first line cannot be read, or names somebody else. Each ends its connection.
fn unreadable() -> Vec<Vec<u8>> {
    let path = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x");
    let line = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n").into_bytes();
    let mut rows: Vec<Vec<u8>> = [
        // Of other hosts, and hosts that are none.
        format!("http://elsewhere.test{path}"),
        format!("https://elsewhere.test{path}"),
        format!("https://{SERVICE}.elsewhere.test{path}"),
        format!("https://{SERVICE}:1{path}"),
        format!("https://user@{SERVICE}{path}"),
        format!("https://{SERVICE}@elsewhere.test{path}"),
        format!("https://{SERVICE}\\@elsewhere.test{path}"),
        format!("https://{SERVICE}#@elsewhere.test{path}"),
        format!("https://{SERVICE}%00{path}"),
        format!("https:/{path}"),
        format!("https://{path}"),
        format!("https:{path}"),
        format!("ftp://{SERVICE}{path}"),
        format!("file://{path}"),
        format!("javascript:{path}"),
        // Authority form, asterisk form, no slash in front.
        format!("{SERVICE}:443"),
        "*".into(),
        path[1..].to_owned(),
        format!("?{path}"),
        format!("\\{}", &path[1..]),
        // More than one word, or another blank between words.
        format!("{path} x"),
        format!("{path} HTTP/1.1 x"),
        format!("{path}\tx"),
        format!("{path}\t"),
        format!("{path}\u{b}"),
        format!("{path}\u{a0}"),
        format!(" {path}"),
        format!("{path} "),
        // Lines within the line.
        format!("{path}\rX: y"),
        format!("{path}\nX: y"),
        format!("{path}\r\n X: y"),
        format!("{path}\r\n\r\nGET {path}"),
        format!("{path}\0"),
        format!("{path}\u{7f}"),
        String::new(),
    ]
    .iter()
    .map(|target| line(target))
    .collect();
    rows.push(format!("OPTIONS * HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n").into_bytes());
    rows.push(format!("CONNECT {SERVICE}:443 HTTP/1.1\r\nHost: {SERVICE}:443\r\n\r\n").into_bytes());
    rows.push(format!("GET {path}\r\nHost: {SERVICE}\r\n\r\n").into_bytes());
    rows.push(format!("GET {path} HTTP/1.1\nHost: {SERVICE}\n\n\r\n\r\n").into_bytes());
    rows
}

#[test]
fn what_tries_to_leave_what_is_published_arrives_nowhere() {
    let recorder = Recorder::start();
    let stack = recorder.publish();
    let mut sender = Sender::new(&stack);
    let mut count = 0;
    let mut judge = |what: &[u8], answer: Answer, status: u16| {
        let reason = match status {
            400 => "CMGService_Bad_Request",
            401 => "CMGService_Invalid_Token",
            404 => "CMGService_Unknown_Url",
            405 => "CMGService_Method_Not_Allowed",
            431 => "CMGService_Head_Too_Large",
            other => panic!("{other}"),
        };
        assert_eq!((answer.status, answer.reason.as_str()), (status, reason), "{}: {answer:?}", show(what));
        assert_eq!(answer.field("X-CMG-Status"), Some(reason), "{}", show(what));
        let arrived: Vec<String> = recorder.take().iter().map(|line| show(line)).collect();
        assert!(arrived.is_empty(), "{} arrived as {arrived:?}", show(what));
        count += 1;
    };
    let fronts = [
        format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP"),
        format!("/CCM_Proxy_MutualAuth/{OWN}/app"),
    ];
    for front in &fronts {
        for trick in TRICKS {
            let target = [front.as_bytes(), trick].concat();
            let answer = sender.get(&target);
            judge(&target, answer, 400);
        }
        // One octet more than a target may have.
        let target = format!("{front}/{}", "x".repeat(cmg::limits::TARGET_SIZE_MAX - front.len()));
        let answer = sender.get(target.as_bytes());
        judge(target.as_bytes(), answer, 431);
    }
    for (target, status) in unpublished() {
        let answer = sender.get(target.as_bytes());
        judge(target.as_bytes(), answer, status);
    }
    for head in unreadable() {
        let mut sender = Sender::new(&stack);
        let answer = sender.send(&head);
        assert!(sender.client.is_none(), "{}: nothing behind it can be read", show(&head));
        judge(&head, answer, 400);
    }
    for method in ["TRACE", "TRACK"] {
        let head = format!("{method} {}/x HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n", fronts[0]);
        let answer = sender.send(head.as_bytes());
        judge(head.as_bytes(), answer, 405);
    }
    assert!(count >= 100);
    println!("{count} requests arrived nowhere");
    // All the while the way was open.
    assert_eq!(sender.get(format!("{}/x", fronts[0]).as_bytes()).status, 200);
    assert_eq!(recorder.take().len(), 1);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn without_a_certificate_nothing_arrives_either() {
    let recorder = Recorder::start();
    let stack = recorder.publish();
    let mut stranger = Client::connect(stack.gateway_address(), &stack.path("pki/ca.pem"), None).unwrap();
    for (target, status) in [
        (format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x"), 403),
        (format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/../x"), 400),
        (format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/AdminService/x"), 404),
    ] {
        assert_eq!(stranger.ask("GET", &target).unwrap().status, status, "{target}");
    }
    assert!(recorder.take().is_empty());
}
