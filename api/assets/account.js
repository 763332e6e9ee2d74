// What the pages do that links in mail lead to: they hold the link's token, and send it when asked to. Nothing is sent
// before a person presses the button: mail filters open links too.
'use strict';

// Beside this page's path, so that a proxy may serve all of it under a prefix.
const PAGES = {
  'reset-password': {
    call: '../v1/auth/password-reset/confirm',
    done: 'Your password is changed, and every earlier login has ended. You can log in now.',
    again: 'Ask for a new password once more where you log in; the new mail has a new link.',
  },
  'verify-email': {
    call: '../v1/auth/email-verification',
    done: 'Your address is confirmed. You can close this page.',
    again: 'If your address is not confirmed yet, ask for a new mail where you log in.',
  },
  'not-me': {
    call: '../v1/auth/not-me',
    done: 'Thank you. Everybody is logged out, and the old password opens nothing any more. A mail with a link to a new password is on its way.',
    again: 'If you have not said so before, ask for a new password where you log in.',
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
    // Out of the address bar, the history and whatever is shared from them.
    history.replaceState(null, '', location.pathname);
    form.hidden = false;
    say('', []);
  } else if (!token) {
    form.hidden = true;
    say('bad', ['This page needs the whole link. Please open it once more from the mail.']);
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
  // Not `disabled`, which would take the focus away.
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
      say('bad', ['The service could not be reached. Please try again in a moment.']);
      return;
    }
  }
  if (answer.ok) {
    finish('good', [page.done]);
  } else if (answer.status === 401 || problem.code === 'invalid_token') {
    finish('bad', ['This link was used before, or it is too old.', page.again]);
  } else {
    const errors = Array.isArray(problem.errors) ? problem.errors : [];
    const list = errors.map((error) => error.detail).filter((detail) => typeof detail === 'string');
    const detail = typeof problem.detail === 'string' ? problem.detail : 'That did not work. Please try again later.';
    // The list is of what the new password must be.
    say('bad', [password && list.length > 0 ? 'The password is not changed yet. The new one:' : detail], list);
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

// Another link opened in this tab changes nothing but the fragment.
window.addEventListener('hashchange', takeToken);
takeToken();
