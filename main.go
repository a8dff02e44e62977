// Command usher is a priority message engine with pluggable handlers.
package main

import "usher/cli"

func main() { cli.Main() }
