// Package otlp tells an OpenTelemetry collector of every attempt at a message: one
// span each, a child of the producer's, and the parent of what the plugin traces. It
// speaks OTLP over HTTP.
package otlp
