//! What changes a running role: HTTP on its Unix socket, which only its owner and root can open.
//!
//! `GET /log-level` what the log lets through · `PUT /log-level[?for=SECS]` with a level as the body: let
//! that through, for a time or until told otherwise. A command is a route here; who gave it is logged.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, RequestExt, Router};
use serde_json::json;

use super::listen::Caller;
use super::log::Log;
use crate::limits;
use crate::settings::LogLevel;

/// The commands of a process with this log.
pub(super) fn router(log: Option<Arc<dyn Log>>) -> Router {
    let level = Arc::new(Level { log, state: Mutex::default() });
    Router::new()
        .route("/log-level", get(tell_level).put(set_level))
        .layer(DefaultBodyLimit::max(limits::CONTROL_BODY_SIZE_MAX))
        .with_state(level)
}

struct Level {
    log: Option<Arc<dyn Log>>,
    state: Mutex<LevelState>,
}

/// What the level goes back to by itself, if to anything.
#[derive(Default)]
struct LevelState {
    back: Option<(String, Instant)>,
    /// Counts changes: a return that was planned before the last one is void.
    changes: u64,
}

type Refused = (StatusCode, String);

impl Level {
    fn log(&self) -> Result<&dyn Log, Refused> {
        self.log
            .as_deref()
            .ok_or((StatusCode::SERVICE_UNAVAILABLE, "this process keeps no log of its own\n".into()))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, LevelState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) -> Result<serde_json::Value, Refused> {
        let level = self.log()?.filter();
        Ok(match &self.state().back {
            Some((back, at)) => {
                let left = at.saturating_duration_since(Instant::now()).as_secs_f64().ceil() as u64;
                json!({ "level": level, "then": back, "then_in_secs": left })
            }
            None => json!({ "level": level }),
        })
    }

    fn set(self: &Arc<Self>, level: LogLevel, wanted: Option<Duration>) -> Result<(), Refused> {
        let log = self.log()?;
        let mut state = self.state();
        let before = log.filter();
        log.set_filter(level.as_str()).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error))?;
        state.changes += 1;
        // Asked for a time again and again, it still goes back to what was there before the first.
        let back = state.back.take().map_or(before, |(back, _)| back);
        state.back = wanted.map(|wanted| (back, Instant::now() + wanted));
        if let Some(wanted) = wanted {
            let (level, change) = (self.clone(), state.changes);
            tokio::spawn(async move {
                tokio::time::sleep(wanted).await;
                level.go_back(change);
            });
        }
        Ok(())
    }

    fn go_back(&self, change: u64) {
        let mut state = self.state();
        if state.changes != change {
            return;
        }
        let (Some((back, _)), Some(log)) = (state.back.take(), &self.log) else { return };
        match log.set_filter(&back) {
            Ok(()) => tracing::info!(level = back, "log level is back"),
            Err(error) => tracing::error!(level = back, error, "log level does not go back"),
        }
    }
}

async fn tell_level(State(level): State<Arc<Level>>) -> Response {
    answer(level.tell())
}

async fn set_level(State(level): State<Arc<Level>>, request: Request) -> Response {
    let caller = request.extensions().get::<Caller>().copied();
    let wanted = asked_time(request.uri().query().unwrap_or_default());
    let body: Result<String, _> = request.extract().await;
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return rejection.into_response(),
    };
    answer(change(&level, body.trim(), wanted, caller))
}

fn change(
    level: &Arc<Level>,
    asked: &str,
    wanted: Result<Option<Duration>, Refused>,
    caller: Option<Caller>,
) -> Result<serde_json::Value, Refused> {
    let wanted = wanted?;
    let asked = LogLevel::parse(asked).ok_or_else(|| {
        let names = LogLevel::ALL.map(LogLevel::as_str).join(", ");
        (StatusCode::BAD_REQUEST, format!("found another word, expected one of {names}\n"))
    })?;
    level.set(asked, wanted)?;
    let (uid, pid) = (caller.and_then(|caller| caller.uid), caller.and_then(|caller| caller.pid));
    let secs = wanted.map(|wanted| wanted.as_secs());
    tracing::info!(level = asked.as_str(), for_secs = secs, uid, pid, "log level changed");
    level.tell()
}

fn answer(outcome: Result<serde_json::Value, Refused>) -> Response {
    match outcome {
        Ok(told) => Json(told).into_response(),
        Err(refused) => refused.into_response(),
    }
}

/// `for=SECS` of a query, which has nothing else.
fn asked_time(query: &str) -> Result<Option<Duration>, Refused> {
    let longest = limits::LOG_LEVEL_FOR_MAX;
    let refused = || {
        let text = format!("expected for=SECS, from 1 to {}, or no query\n", longest.as_secs());
        (StatusCode::BAD_REQUEST, text)
    };
    if query.is_empty() {
        return Ok(None);
    }
    let secs = query.strip_prefix("for=").and_then(|secs| secs.parse().ok());
    let wanted = Duration::from_secs(secs.ok_or_else(refused)?);
    if wanted.is_zero() || wanted > longest { Err(refused()) } else { Ok(Some(wanted)) }
}
