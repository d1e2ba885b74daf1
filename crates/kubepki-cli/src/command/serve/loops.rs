//! The loops of a server, each on a thread of its own: one that waits for a disk holds up no other.

use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Runs what `begin` makes on a thread of its own. What comes out is done when that is.
///
/// # Errors
///
/// When there is no thread to be had.
pub(super) fn on_a_thread<F: Future<Output = ()> + 'static>(
    name: &str,
    begin: impl FnOnce() -> F + Send + 'static,
) -> std::io::Result<impl Future<Output = ()>> {
    let (done, ended) = oneshot::channel();
    let runtime = Handle::current();
    let thread = std::thread::Builder::new().name(name.to_owned());
    let thread = thread.spawn(move || {
        runtime.block_on(begin());
        let _ = done.send(());
    })?;
    Ok(async move {
        if ended.await.is_err()
            && let Err(panic) = thread.join()
        {
            std::panic::resume_unwind(panic);
        }
    })
}
