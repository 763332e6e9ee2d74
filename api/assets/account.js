// The pages of links in e-mails. They hold the token of the link and send it when a person presses the button, not before:
// mail filters open links, too.
'use strict';

// Relative paths, so that a proxy can serve the pages under a prefix.
const PAGES = {
  'reset-password': {
    call: '../v1/auth/password-reset/confirm',
    done: 'Your password is changed, and every earlier session has ended. You can log in now.',
    again: 'Request a new password again where you log in. The new e-mail has a new link.',
  },
  'verify-email': {
    call: '../v1/auth/email-verification',
    done: 'Your address is confirmed. You can close this page.',
    again: 'If your address is not confirmed yet, log in and request a new e-mail.',
  },
  'not-me': {
    call: '../v1/auth/not-me',
    done: 'Thank you. Every session has ended, and the old password is no longer valid. You will receive an e-mail with a link to set a new password.',
    again: 'If you have not reported it before, request a new password where you log in.',
  },
};

const page = PAGES[document.body.dataset.page];
const form = document.querySelector('form');
const button = form.querySelector('button');
const password = document.querySelector('#password');
const show = document.querySelector('#show');
const said = document.querySelector('#said');
let token = '';
let busy = false;

function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get('token');
  if (given) {
    token = given;
    // Remove the token from the address bar and the history.
    history.replaceState(null, '', location.pathname);
    form.hidden = false;
    say('', []);
  } else if (!token) {
    form.hidden = true;
    say('bad', ['The link is incomplete. Please open it again from the e-mail.']);
  }
}

function say(mood, lines, list = []) {
  const parts = lines.map((line) => {
    const p = document.createElement('p');
    p.textContent = line;
    return p;
  });
  if (list.length > 0) {
    const ul = document.createElement('ul');
    for (const line of list) {
      const li = document.createElement('li');
      li.textContent = line;
      ul.append(li);
    }
    parts.push(ul);
  }
  said.className = mood;
  said.replaceChildren(...parts);
}

function wait(yes) {
  busy = yes;
  // Not `disabled`, which would remove the focus.
  button.setAttribute('aria-disabled', String(yes));
}

async function send() {
  const body = { token };
  if (password) body.new_password = password.value;
  let answer;
  let problem = {};
  try {
    answer = await fetch(page.call, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(body),
      credentials: 'omit',
      cache: 'no-store',
      redirect: 'error',
      signal: AbortSignal.timeout(40000),
    });
    if (!answer.ok) problem = await answer.json();
  } catch {
    if (!answer) {
      say('bad', ['The service is not reachable. Please try again in a moment.']);
      return;
    }
  }
  if (answer.ok) {
    finish('good', [page.done]);
  } else if (answer.status === 401 || problem.code === 'invalid_token') {
    finish('bad', ['This link was already used, or it has expired.', page.again]);
  } else {
    const errors = Array.isArray(problem.errors) ? problem.errors : [];
    const list = errors.map((error) => error.detail).filter((detail) => typeof detail === 'string');
    const detail = typeof problem.detail === 'string' ? problem.detail : 'The request failed. Please try again later.';
    // The list has the rules that the new password breaks.
    say('bad', [password && list.length > 0 ? 'The password was not changed. The new password:' : detail], list);
    if (password && list.length > 0) {
      password.setAttribute('aria-invalid', 'true');
      password.focus();
    }
  }
}

function finish(mood, lines) {
  token = '';
  if (password) password.value = '';
  form.hidden = true;
  say(mood, lines);
  said.focus();
}

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  if (busy || !token) return;
  if (password && password.value === '') {
    password.focus();
    return;
  }
  if (password) password.removeAttribute('aria-invalid');
  say('', ['One moment…']);
  wait(true);
  await send();
  wait(false);
});

if (show) {
  show.addEventListener('change', () => {
    password.type = show.checked ? 'text' : 'password';
  });
}

// Another link that is opened in this tab changes only the fragment.
window.addEventListener('hashchange', takeToken);
takeToken();
