// Command usher is a priority message engine with pluggable handlers.
package main

func main() {}
