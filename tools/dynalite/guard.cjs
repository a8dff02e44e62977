// Loaded before dynalite, which ends with the first client that dies in the middle of a
// request: it throws what the request's end is told. Clients of tests are killed.
process.on('uncaughtException', (err) => {
  if (err.code === 'ECONNRESET') return
  console.error(err)
  process.exit(1)
})
