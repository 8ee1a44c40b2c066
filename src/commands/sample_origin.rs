//! `cmg sample-origin`: a stand-in for a management point, so that `cmg up` answers out of the box.
//!
//! Takes any method on any path and answers with a short text that says what arrived: method, target,
//! and length and SHA-256 of the body. `?bytes=N` in the query asks for N bytes instead. Bodies of any size
//! pass in a few buffers, both ways.

use std::io;
use std::net::SocketAddr;
use std::sync::LazyLock;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use futures_lite::{StreamExt, stream};
use ring::digest;
use tokio::net::TcpListener;

use super::Failure;

#[derive(clap::Args)]
pub struct Arguments {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

/// Times the alphabet in one piece of a long answer: about 64 KiB.
const ALPHABETS: usize = 2_520;
static PIECE: LazyLock<Bytes> = LazyLock::new(|| (b'a'..=b'z').cycle().take(26 * ALPHABETS).collect());

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    serve(arguments.listen).map_err(|error| Failure::Broken(format!("{}: {error}", arguments.listen)))
}

fn serve(address: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?.tap_io(|stream| {
            // Answers are small; without this each second one could wait for an acknowledgement.
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, Router::new().fallback(answer)).await
    })
}

async fn answer(request: Request) -> Response {
    match asked_bytes(request.uri().query().unwrap_or_default()) {
        Some(Ok(size)) => bytes(size),
        Some(Err(_)) => (StatusCode::BAD_REQUEST, "bytes= takes a number\n").into_response(),
        None => describe(request).await,
    }
}

fn asked_bytes(query: &str) -> Option<Result<u64, std::num::ParseIntError>> {
    query.split('&').find_map(|pair| pair.strip_prefix("bytes=")).map(str::parse)
}

/// `size` bytes, the alphabet over and over, so that a missing or doubled piece shows in a checksum.
fn bytes(size: u64) -> Response {
    let piece = PIECE.clone();
    let pieces = stream::unfold(size, move |left| {
        let part = piece.slice(..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        async move { (left > 0).then(|| (io::Result::Ok(part.clone()), left - part.len() as u64)) }
    });
    let fields = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, size.to_string()),
    ];
    (fields, Body::from_stream(pieces)).into_response()
}

async fn describe(request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok((length, sum)) = measure(body).await else {
        // Nobody is left to read this: the body broke off.
        return StatusCode::BAD_REQUEST.into_response();
    };
    let text = format!(
        "cmg sample management point\nmethod: {}\ntarget: {}\nhost: {}\nclient certificate: {}\nlength: {length}\nsha256: {sum}\n",
        head.method,
        head.uri,
        text_of(&head.headers, "host"),
        if head.headers.contains_key("client-cert") { "yes" } else { "no" },
    );
    text.into_response()
}

fn text_of<'a>(fields: &'a HeaderMap, name: &str) -> &'a str {
    fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

async fn measure(body: Body) -> Result<(u64, String), axum::Error> {
    let mut pieces = body.into_data_stream();
    let (mut length, mut sum) = (0, digest::Context::new(&digest::SHA256));
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        length += piece.len() as u64;
        sum.update(&piece);
    }
    Ok((length, sum.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()))
}
