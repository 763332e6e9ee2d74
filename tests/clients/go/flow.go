// A journey through the API with a client that openapi-generator has generated.
package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"fulexo"
)

const password = "correct-Horse7battery"

func must[T any](value T, _ *http.Response, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
}

func hold(holds bool, what string) {
	if !holds {
		log.Output(2, what)
		os.Exit(1)
	}
}

// The problem that a call is refused with.
func refused(answer *http.Response, err error) (int, fulexo.ProblemCode) {
	failure, is := err.(*fulexo.GenericOpenAPIError)
	hold(is, fmt.Sprintf("no refusal: %v", err))
	problem, is := failure.Model().(fulexo.Problem)
	hold(is, fmt.Sprintf("no problem: %s", failure.Body()))
	return answer.StatusCode, problem.Code
}

// A code of an authenticator app, steps of 30 seconds from now (RFC 6238).
func totp(secret string, steps int64) string {
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
	check(err)
	step := make([]byte, 8)
	binary.BigEndian.PutUint64(step, uint64(time.Now().Unix()/30+steps))
	mac := hmac.New(sha1.New, key)
	mac.Write(step)
	sum := mac.Sum(nil)
	from := sum[len(sum)-1] & 15
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[from:from+4])&0x7fffffff%1000000)
}

func main() {
	var dev struct {
		URL      string `json:"url"`
		Accounts struct {
			Admin fulexo.LoginRequest `json:"admin"`
		} `json:"accounts"`
	}
	text, err := os.ReadFile(os.Getenv("DEV_JSON"))
	check(err)
	check(json.Unmarshal(text, &dev))
	configuration := fulexo.NewConfiguration()
	configuration.Servers = fulexo.ServerConfigurations{{URL: dev.URL}}
	client := fulexo.NewAPIClient(configuration)
	authentication, me := client.AuthenticationAPI, client.MeAPI
	nobody := context.Background()
	with := func(token string) context.Context {
		return context.WithValue(nobody, fulexo.ContextAccessToken, token)
	}
	chance := make([]byte, 8)
	_, err = rand.Read(chance)
	check(err)
	email := "go-" + hex.EncodeToString(chance) + "@example.com"
	login := func(password string) (*fulexo.LoginResponse, *http.Response, error) {
		return authentication.Login(nobody).LoginRequest(*fulexo.NewLoginRequest(email, password)).Execute()
	}

	registration := fulexo.NewRegistrationRequest(email, password)
	registration.SetDisplayName("Ann")
	account := must(authentication.Register(nobody).RegistrationRequest(*registration).Execute())
	hold(account.Email == email, account.Email)
	_, answer, err := login("wrong")
	status, code := refused(answer, err)
	hold(status == 401 && code == fulexo.PROBLEMCODE_INVALID_CREDENTIALS, string(code))

	first := must(login(password)).TokenResponse
	hold(first != nil, "not signed in")
	ann := with(first.AccessToken)
	secret := must(me.EnrolTotp(ann).Execute()).Secret
	confirmation := fulexo.NewTotpConfirmationRequest(totp(secret, 0))
	codes := must(me.ConfirmTotp(ann).TotpConfirmationRequest(*confirmation).Execute()).RecoveryCodes
	hold(len(codes) == 10, "ten recovery codes")

	challenge := must(login(password)).SecondFactorChallenge
	hold(challenge != nil, "no second factor was asked for")
	factor := fulexo.NewSecondFactorRequest(challenge.ChallengeToken, totp(secret, 1))
	second := must(authentication.LoginWithSecondFactor(nobody).SecondFactorRequest(*factor).Execute()).TokenResponse
	hold(second != nil, "not signed in")
	refresh := fulexo.NewRefreshRequest()
	refresh.SetRefreshToken(second.RefreshToken)
	refreshed := must(authentication.RefreshTokens(nobody).RefreshRequest(*refresh).Execute()).TokenResponse
	hold(refreshed != nil, "no tokens were given")

	there := false
	for _, session := range must(me.ListMySessions(ann).Limit(10).Execute()).Items {
		there = there || session.SessionId == second.SessionId
	}
	hold(there, "the session is listed")
	_, err = me.RevokeMySession(ann, second.SessionId).Execute()
	check(err)
	_, answer, err = authentication.GetCurrentSession(with(refreshed.AccessToken)).Execute()
	status, code = refused(answer, err)
	hold(status == 401 && code == fulexo.PROBLEMCODE_INVALID_TOKEN, string(code))

	signedIn := must(authentication.Login(nobody).LoginRequest(dev.Accounts.Admin).Execute()).TokenResponse
	hold(signedIn != nil, "not signed in")
	admin := with(signedIn.AccessToken)
	policy := must(client.PolicyAPI.GetPolicy(admin).Execute())
	policy.Lockout.Threshold = 7
	proposal := fulexo.NewPolicyRequest(
		policy.Lockout, policy.Passwords, "a client's journey", policy.SecondFactor, policy.Sessions)
	proposal.SetApiKeys(policy.ApiKeys)
	changed := must(client.PolicyAPI.ChangePolicy(admin).PolicyRequest(*proposal).Execute())
	hold(changed.Lockout.Threshold == 7, "the policy is changed")
	hold(len(must(client.AccountsAPI.ListAccounts(admin).Limit(1).Execute()).Items) == 1, "one account is listed")
	fmt.Println("Go: register, log in, second factor, refresh, list, revoke, change the policy")
}
