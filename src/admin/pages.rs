//! What an admin listener answers, and to whom.
//!
//! On loopback without a token, a foreign `Host` is refused: no web page can read this through a name
//! that was pointed at 127.0.0.1. Where a token is asked for, `Host` is not looked at. The token does
//! what that check does and more, for a browser never adds it by itself; and scrapers behind load
//! balancers, or that dial an address and verify another name, would be turned away for nothing. The
//! health pages tell a stranger a word that says nothing, under any name.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Report;
use super::material::Token;

/// `/healthz` and `/readyz` alone.
pub(super) fn health(report: Arc<dyn Report>) -> Router {
    health_routes().with_state(report)
}

/// Everything, for those who bear the token, or for loopback names.
pub(super) fn all(report: Arc<dyn Report>, token: Option<Token>) -> Router {
    let routes = health_routes().route("/status", get(status)).route("/metrics", get(metrics));
    let routes = routes.route("/traffic", get(traffic));
    match token {
        Some(token) => routes.layer(middleware::from_fn_with_state(token, ask_for_token)),
        None => routes.layer(middleware::from_fn(refuse_foreign_host)),
    }
    .with_state(report)
}

fn health_routes() -> Router<Arc<dyn Report>> {
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(readyz))
}

async fn readyz(State(report): State<Arc<dyn Report>>) -> (StatusCode, &'static str) {
    if report.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

/// One line, ended: who asks with curl has the prompt on the next.
async fn status(State(report): State<Arc<dyn Report>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], format!("{}\n", report.status()))
}

async fn metrics(State(report): State<Arc<dyn Report>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], report.metrics())
}

async fn traffic(State(report): State<Arc<dyn Report>>) -> Response {
    match report.traffic() {
        Some(shown) => ([(header::CONTENT_TYPE, "application/json")], format!("{shown}\n")).into_response(),
        None => (StatusCode::NOT_FOUND, "this role does not tell of traffic\n").into_response(),
    }
}

async fn ask_for_token(State(token): State<Token>, request: Request, next: Next) -> Response {
    let challenge = match bearer(request.headers()) {
        Some(offered) if token.is(offered) => return next.run(request).await,
        Some(_) => "Bearer realm=\"cmg\", error=\"invalid_token\"",
        None => "Bearer realm=\"cmg\"",
    };
    let text = "this listener asks for the token in the file that admin.token_file names\n";
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)], text).into_response()
}

/// What the one `Authorization` field offers.
fn bearer(fields: &HeaderMap) -> Option<&[u8]> {
    let mut found = fields.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (found.next(), found.next()) else { return None };
    let (scheme, offered) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(offered.trim_ascii())
}

async fn refuse_foreign_host(request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let field = hosts.next().map(|value| value.to_str().is_ok_and(is_own_host));
    let target = request.uri().authority().map(|authority| is_own_host(authority.as_str()));
    // HTTP/1.0 needs no Host, and no browser leaves it out.
    if hosts.next().is_some() || field == Some(false) || target == Some(false) {
        return (StatusCode::MISDIRECTED_REQUEST, "this listener answers to loopback names only\n")
            .into_response();
    }
    next.run(request).await
}

/// Whether a Host value names loopback, with or without a port.
fn is_own_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(address, _)| address),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}
