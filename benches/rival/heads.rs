//! Heads as the types of the crate `http`, the way servers over `httparse` make them.

use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};

/// As many as the channel takes.
const FIELDS: usize = 64;

/// A request with everything in it owned.
pub fn http_request(bytes: &[u8]) -> Request<()> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    assert!(parsed.parse(bytes).expect("a sound head").is_complete());
    let method = Method::from_bytes(parsed.method.expect("a method").as_bytes());
    let uri = Uri::builder()
        .scheme("https")
        .authority("cmg.example.org")
        .path_and_query(parsed.path.expect("a target"));
    let mut request = Request::new(());
    *request.method_mut() = method.expect("a token");
    *request.uri_mut() = uri.build().expect("a URL");
    for field in parsed.headers.iter().filter(|field| is_forwarded(field.name)) {
        let (name, value) = owned(field);
        request.headers_mut().append(name, value);
    }
    request
}

/// The same of an answer, whose body is to have `size` bytes: HTTP/2 compares them with what is declared.
pub fn http_response(bytes: &[u8], size: usize) -> Response<()> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    assert!(parsed.parse(bytes).expect("a sound head").is_complete());
    let mut response = Response::new(());
    *response.status_mut() = parsed.code.expect("a status").try_into().expect("a status");
    for field in parsed.headers.iter() {
        let (name, value) = owned(field);
        response.headers_mut().append(name, value);
    }
    response.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(size));
    response
}

fn owned(field: &httparse::Header<'_>) -> (HeaderName, HeaderValue) {
    let name = HeaderName::from_bytes(field.name.as_bytes()).expect("a token");
    (name, HeaderValue::from_bytes(field.value).expect("a value"))
}

/// HTTP/2 refuses fields about one connection.
fn is_forwarded(name: &str) -> bool {
    !name.eq_ignore_ascii_case("connection") && !name.eq_ignore_ascii_case("host")
}
