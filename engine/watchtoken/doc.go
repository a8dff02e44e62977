// Package watchtoken makes and checks the tokens with which people watch their
// own messages. A producer, who knows its user, makes a token for one message
// with a secret that it shares with usher; a browser shows it when it
// subscribes. Nothing is stored: a token is a signed statement.
//
//	usher1.<key id>.<stage>.<message id>.<expiry>.<signature>
//
//	key id      names the producer's secret, 1 to 64 of A-Z a-z 0-9 _ -
//	stage       of which deployment, so that one of a test opens nothing elsewhere; likewise
//	message id  in base64url without padding
//	expiry      Unix time in seconds, decimal
//	signature   HMAC-SHA256 of all before its dot, in base64url without padding
//
// All of it is compared as text, so a token has one spelling. What is wrong with
// one is for the operators: whoever showed it learns only that it is not good.
package watchtoken
