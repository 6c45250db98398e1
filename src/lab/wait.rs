//! Waiting for a condition with a deadline: the only way in which the lab and its tests let time pass.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// How often a condition is looked at.
const PACE: Duration = Duration::from_millis(25);

/// Tries until `attempt` succeeds, and returns what it returned.
///
/// A failed attempt only means "not yet"; its error is shown when `limit` has passed. One attempt that hangs is cut off
/// at the deadline.
pub async fn wait_for<T, F>(what: &str, limit: Duration, mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + limit;
    let mut last = None;
    loop {
        match timeout_at(deadline, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = Some(error),
            Err(_elapsed) => {}
        }
        if Instant::now() + PACE >= deadline {
            break;
        }
        sleep(PACE).await;
    }
    match last {
        Some(error) => bail!("waited {limit:?} for {what}: {error:#}"),
        None => bail!("waited {limit:?} for {what}, which did not answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn success_after_failures_is_returned() {
        let mut tries = 0;
        let value = wait_for("the third try", Duration::from_secs(1), || {
            tries += 1;
            let tries = tries;
            async move { if tries == 3 { Ok(tries) } else { bail!("try {tries}") } }
        });
        assert_eq!(value.await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn deadline_shows_the_last_reason() {
        let error = wait_for::<(), _>("rain", Duration::from_secs(1), || async { bail!("the sky is blue") });
        assert_eq!(error.await.unwrap_err().to_string(), "waited 1s for rain: the sky is blue");
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_attempt_is_cut_off() {
        let error = wait_for::<(), _>("an echo", Duration::from_secs(1), std::future::pending);
        assert_eq!(error.await.unwrap_err().to_string(), "waited 1s for an echo, which did not answer");
    }
}
