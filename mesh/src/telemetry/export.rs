//! Sending spans to a collector that speaks OTLP over gRPC, in batches, from a thread of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};

use super::resource;

/// How long the last spans may take to get to their collector.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Sends spans to a collector, if there is one.
#[derive(Debug)]
#[must_use = "what is not finished loses the last spans"]
pub struct Exporter {
    pub(super) provider: Option<SdkTracerProvider>,
}

impl Exporter {
    /// Sends what is left; a collector that does not take it is not waited for.
    pub async fn finish(self) {
        let Some(provider) = self.provider else { return };
        #[expect(clippy::disallowed_methods, reason = "the last thing that a process does")]
        let flushed =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST_WORDS));
        if !matches!(flushed.await, Ok(Ok(()))) {
            tracing::warn!("the last spans were not sent");
        }
    }
}

/// What makes spans for this collector.
pub(super) fn provider(collector: &str) -> Result<SdkTracerProvider, String> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(collector)
        .build()
        .map_err(|error| format!("the collector {collector}: {error}"))?;
    let exporter = Patient { exporter, failing: AtomicBool::new(false) };
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build())
}

/// Loses what a collector does not take, and says so once, not with every batch.
#[derive(Debug)]
struct Patient {
    exporter: opentelemetry_otlp::SpanExporter,
    failing: AtomicBool,
}

impl SpanExporter for Patient {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let outcome = self.exporter.export(batch).await;
        let failed_before = self.failing.swap(outcome.is_err(), Ordering::Relaxed);
        match outcome {
            Err(error) if !failed_before => {
                tracing::warn!(%error, "the collector does not take spans: they are lost until it does");
            }
            Ok(()) if failed_before => tracing::info!("the collector takes spans again"),
            _ => {}
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
