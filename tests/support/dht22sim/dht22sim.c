/*
 * dht22sim - a DHT22 (AM2302) at the level of the GPIO registers
 *
 * usage: dht22sim REGISTERS PIN SCHEDULE
 *
 * REGISTERS is the file that the driver maps as /dev/gpiomem, PIN a BCM
 * number, and SCHEDULE a file with a line for each start signal:
 *
 *	ok 743 257	answer with 74.3 %RH, 25.7 degrees Celsius
 *	bad 743 257	the same with a wrong checksum
 *	dead 0 0	do not answer
 *
 * The last line stays in force until another is appended, so that a test can
 * change the weather while the driver reads.
 *
 * Registers: BCM2835 ARM Peripherals, chapter 6. Signal: AM2302 manual
 * (Aosong), section 7; its typical times are used.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/*
 * The driver measures a pulse by counting how often it can read the register
 * meanwhile, and gives up at 32,000. Memory answers much faster than a Pi's
 * registers, so a microsecond lasts 20 ns here; short frames also meet fewer
 * interrupts.
 */
#define NS_PER_US 20

/* How much longer than meant a pulse may be and still be read right, in us. */
#define TOLERANCE 10

/* The driver adds this to the peripheral base, which run.sh has set to 0. */
#define GPIO_OFFSET 0x200000

enum { GPFSEL0 = 0, GPCLR0 = 0x28 / 4, GPLEV0 = 0x34 / 4 };

static volatile uint32_t *gpio;
static int pin;

/*
 * Sensor and driver must not wait for each other's CPU: give this process the
 * last one, and the driver's, which run.sh becomes, the first.
 */
static void separate(void)
{
	cpu_set_t allowed, one;
	int first = 0, last = CPU_SETSIZE - 1;

	sched_getaffinity(0, sizeof(allowed), &allowed);
	while (!CPU_ISSET(first, &allowed))
		first++;
	while (!CPU_ISSET(last, &allowed))
		last--;
	CPU_ZERO(&one);
	CPU_SET(first, &one);
	sched_setaffinity(getppid(), sizeof(one), &one);
	CPU_ZERO(&one);
	CPU_SET(last, &one);
	sched_setaffinity(0, sizeof(one), &one);
}

static void encode(uint8_t frame[5], int humidity, int temperature)
{
	/* The sign is a bit of its own, not two's complement. */
	int t = temperature < 0 ? 0x8000 | -temperature : temperature;

	frame[0] = humidity >> 8;
	frame[1] = humidity;
	frame[2] = t >> 8;
	frame[3] = t;
	frame[4] = frame[0] + frame[1] + frame[2] + frame[3];
}

static int64_t nanoseconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Hold the line for some us; false if the scheduler made it too long. */
static bool pulse(uint32_t level, int us)
{
	int64_t end = nanoseconds() + us * NS_PER_US;
	int64_t t;

	gpio[GPLEV0] = level << pin;
	while ((t = nanoseconds()) < end)
		;
	return t < end + TOLERANCE * NS_PER_US;
}

static bool bit(int b)
{
	return pulse(0, 50) && pulse(1, b ? 70 : 26);
}

/*
 * Answer a start signal. A frame that came out too slow is not finished: the
 * driver then times out, where it could have read a wrong value for which
 * the simulated sensor, not the program under test, were to blame.
 */
static void send_frame(const uint8_t frame[5])
{
	bool good = pulse(1, 30) && pulse(0, 80) && pulse(1, 80);

	for (int i = 0; good && i < 40; i++)
		good = bit(frame[i / 8] >> (7 - i % 8) & 1);
	if (good)
		pulse(0, 50);
	gpio[GPLEV0] = 1u << pin;	/* the pull-up */
}

int main(int argc, char **argv)
{
	char line[80], mode[8] = "dead";
	int humidity = 0, temperature = 0;	/* in tenths */
	uint8_t frame[5];

	if (argc != 4) {
		fprintf(stderr, "usage: dht22sim REGISTERS PIN SCHEDULE\n");
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);	/* end with the driver's process */
	prctl(PR_SET_TIMERSLACK, 1);		/* sleep no longer than asked */
	separate();
	pin = atoi(argv[2]);
	FILE *schedule = fopen(argv[3], "r");
	int fd = open(argv[1], O_RDWR);

	gpio = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		    GPIO_OFFSET);
	if (schedule == NULL || gpio == MAP_FAILED) {
		perror("dht22sim");
		return 1;
	}
	pulse(1, 0);	/* the pull-up, and the first call, which takes longest */
	for (;;) {
		/* Start signal: the host holds the line low (Adafruit_DHT: for 20 ms). */
		while (!(gpio[GPCLR0] >> pin & 1))
			usleep(2000);
		gpio[GPCLR0] = 0;

		if (fgets(line, sizeof(line), schedule) == NULL)
			clearerr(schedule);	/* what is appended later counts */
		else if (sscanf(line, "%7s %d %d", mode, &humidity, &temperature) != 3) {
			fprintf(stderr, "dht22sim: not a schedule: %s", line);
			return 1;
		}
		encode(frame, humidity, temperature);
		if (strcmp(mode, "bad") == 0)
			frame[4] ^= 0xff;

		/*
		 * The host lets go of the line by making the pin an input.
		 * Naps, because who has just woken runs for long enough on a
		 * busy CPU, and who has been spinning for 20 ms does not.
		 */
		while (gpio[GPFSEL0 + pin / 10] >> pin % 10 * 3 & 7)
			usleep(10);
		if (strcmp(mode, "dead") != 0)
			send_frame(frame);
	}
}
